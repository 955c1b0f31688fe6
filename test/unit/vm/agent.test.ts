import { duplexPair, Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { Agent } from '../../../src/vm/agent.ts';
import {
  encodeFrame,
  type Frame,
  FrameReader,
  frameType,
  payloadBytesMax,
  windowBytes,
} from '../../../src/vm/agent-protocol.ts';

/** An agent whose guest is this test: what it is sent, as frames. */
function withGuest() {
  const [port, guest] = duplexPair();
  const reader = new FrameReader();
  const frames: Frame[] = [];
  guest.on('data', (chunk: Buffer) => frames.push(...reader.push(chunk)));
  return { agent: new Agent(port), guest, frames };
}

const credits = (frames: readonly Frame[]) =>
  frames
    .filter(({ type, stream }) => type === frameType.credit && stream === 1)
    .reduce((sum, { payload }) => sum + payload.readUInt32LE(0), 0);

it('gives a command that it gave up its whole credit back, that it may end in the guest', async () => {
  const { agent, guest, frames } = withGuest();
  const stuck = new Writable({ write() {} });
  const command = agent.start(['yes'], { stdout: stuck, timeoutMs: 10 });
  const full = Buffer.alloc(payloadBytesMax);
  for (let sent = 0; sent < windowBytes; sent += full.length) {
    guest.write(encodeFrame(frameType.output, 1, 1, full));
  }
  expect(await command.ended).toEqual({ exitCode: 124, ended: 'timed-out' });
  await sleep(10);
  expect(credits(frames)).toBe(windowBytes);
  // What it says after that is dropped, and credited too.
  guest.write(encodeFrame(frameType.output, 1, 1, Buffer.alloc(100)));
  await sleep(10);
  expect(credits(frames)).toBe(windowBytes + 100);
});

it('gives no credit for what is not written yet', async () => {
  const { agent, guest, frames } = withGuest();
  const written: (() => void)[] = [];
  const sink = new Writable({ write: (_chunk, _encoding, done) => void written.push(done) });
  agent.start(['yes'], { stdout: sink });
  guest.write(encodeFrame(frameType.output, 1, 1, Buffer.alloc(10)));
  await sleep(10);
  expect(credits(frames)).toBe(0);
  written[0]?.();
  await sleep(10);
  expect(credits(frames)).toBe(10);
  agent.end(new Error('over'));
});
