import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  agentVersion,
  encodeFrame,
  encodeStart,
  FrameReader,
  frameType,
  payloadBytesMax,
  sessionsMax,
  windowBytes,
} from '../../../src/vm/agent-protocol.ts';
import { guestSources } from '../../../src/vm/guest-build.ts';

describe('frames', () => {
  const frame = fc.record({
    type: fc.constantFrom(...Object.values(frameType)),
    session: fc.nat(0xffff),
    stream: fc.constantFrom(0 as const, 1 as const, 2 as const),
    payload: fc.uint8Array({ maxLength: 300 }),
  });

  it('come out as they went in, however the stream is cut', () => {
    fc.assert(
      fc.property(fc.array(frame), fc.array(fc.integer({ min: 1, max: 50 })), (frames, cuts) => {
        const bytes = Buffer.concat(
          frames.map((f) => encodeFrame(f.type, f.session, f.stream, f.payload)),
        );
        const reader = new FrameReader();
        const got = [];
        for (let at = 0, i = 0; at < bytes.length; i++) {
          const length = cuts.length > 0 ? cuts[i % cuts.length]! : bytes.length;
          got.push(...reader.push(bytes.subarray(at, at + length)));
          at += length;
        }
        expect(got.map((f) => ({ ...f, payload: [...f.payload] }))).toEqual(
          frames.map((f) => ({ ...f, payload: [...f.payload] })),
        );
      }),
    );
  });

  it('over the bound are refused, both ways, before anything is held', () => {
    const header = Buffer.alloc(8);
    header.writeUInt32LE(payloadBytesMax + 1, 0);
    expect(() => new FrameReader().push(header)).toThrow(/at most 65536 bytes.*got 65537/);
    expect(() => encodeFrame(2, 1, 0, Buffer.alloc(payloadBytesMax + 1))).toThrow(RangeError);
  });
});

describe('a start frame', () => {
  it.each([
    [{ command: [] }, /command to run.*got none/],
    [{ command: ['a\0b'] }, /without NUL/],
    [{ command: ['a'], env: { A: '\0' } }, /without NUL/],
    [{ command: ['x'.repeat(payloadBytesMax)] }, /at most/],
    [{ command: new Array<string>(1025).fill('a') }, /at most 1024 strings/],
  ])('is refused where the agent could not take it (%#)', (request, message) => {
    expect(() => encodeStart(request)).toThrow(message);
  });
});

it("has the agent's header say the same numbers", () => {
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-agent-'));
  try {
    const names = {
      AGENT_VERSION: agentVersion,
      AGENT_PAYLOAD_MAX: payloadBytesMax,
      AGENT_WINDOW: windowBytes,
      AGENT_SESSIONS_MAX: sessionsMax,
      AGENT_START: frameType.start,
      AGENT_STDIN: frameType.stdin,
      AGENT_SIGNAL: frameType.signal,
      AGENT_WINDOW_SIZE: frameType.windowSize,
      AGENT_POWER_OFF: frameType.powerOff,
      AGENT_CREDIT: frameType.credit,
      AGENT_HELLO: frameType.hello,
      AGENT_OUTPUT: frameType.output,
      AGENT_EXIT: frameType.exit,
    };
    const checks = Object.entries(names).map(
      ([name, value]) => `_Static_assert(${name} == ${value}, "${name}");`,
    );
    const sizes =
      '_Static_assert(sizeof(struct agent_frame) == 8 && sizeof(struct agent_start) == 12, "");';
    const source = join(directory, 'check.c');
    writeFileSync(source, ['#include "agent.h"', ...checks, sizes].join('\n'));
    const include = join(guestSources, 'agent');
    execFileSync('gcc', ['-fsyntax-only', '-I', include, source], { stdio: 'pipe' });
  } finally {
    rmSync(directory, { recursive: true });
  }
});
