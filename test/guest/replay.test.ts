/** A real guest's session with edu, recorded, and played back without the guest. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Edu } from '../../src/devices/edu/edu.ts';
import { Machine } from '../../src/machine/machine.ts';
import { parseRequesterId } from '../../src/pci/requester-id.ts';
import { replay } from '../../src/replay/replay.ts';
import { ensureParts } from '../../src/setup/ensure-parts.ts';
import { type ReadTrace, readTrace } from '../../src/trace/read-trace.ts';
import { Trace } from '../../src/trace/trace.ts';

const FILE_BYTES = 20_001;
/** Registers of edu, as QEMU's docs/specs/edu.rst has them. */
const STATUS = 0x20;
const INTERRUPT_STATUS = 0x24;

describe("a recorded session of the guest's edu driver", () => {
  let directory: string;
  let recorded: ReadTrace;

  beforeAll(async () => {
    directory = mkdtempSync(join(tmpdir(), 'sealbus-replay-'));
    const path = join(directory, 'edu.ndjson');
    const trace = new Trace({ dataBytesMax: Number.POSITIVE_INFINITY, sink: path });
    {
      await using machine = await Machine.create({
        ...{ parts: await ensureParts(), memory: 'plain', bytes: 256 * 2 ** 20 },
        instruments: [trace],
      });
      machine.plug(new Edu(), parseRequesterId('00:04.0'));
      const vm = await machine.boot();
      await vm.insmod('sealbus_edu');
      const sent = Uint8Array.from({ length: FILE_BYTES }, (_, i) => (i * 7) ^ (i >> 8));
      await vm.writeFile('/tmp/sent', sent);
      await vm.check(['edu-copy', '/dev/edu0', '/tmp/sent', '/tmp/came']);
      await vm.check(['cmp', '/tmp/sent', '/tmp/came']);
      await vm.check(['sh', '-c', 'echo 6 > /sys/bus/pci/devices/0000:00:04.0/factorial']);
      await vm.check(['rmmod', 'sealbus_edu']);
    }
    recorded = readTrace(path);
  });
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  it('has the whole file in it, both ways', () => {
    const bytes = (direction: 'read' | 'write') =>
      recorded.events
        .filter((event) => event.kind === 'dma' && event.direction === direction)
        .reduce((sum, event) => sum + (event.kind === 'dma' ? event.bytes : 0), 0);
    expect([bytes('read'), bytes('write')]).toEqual([FILE_BYTES, FILE_BYTES]);
    expect(recorded.cut).toBe(false);
  });

  it('is the same on the device alone, time and again', async () => {
    for (let round = 0; round < 5; round++) {
      const replayed = await replay(recorded, () => new Edu());
      expect(replayed.difference).toBeUndefined();
      expect(replayed.played).toBe(replayed.inputs);
    }
  });

  it('shows where a device that loses a cause of its interrupts first differs', async () => {
    class Forgetful extends Edu {
      override readBar(bar: number, offset: number, into: Uint8Array): void {
        super.readBar(bar, offset, into);
        // The DMA's cause, 0x100, is not shown.
        if (offset === INTERRUPT_STATUS && into.length === 4) into[1] = 0;
      }
    }
    const { difference } = await replay(recorded, () => new Forgetful());
    const first = recorded.events.findIndex(
      (event) =>
        event.kind === 'register' &&
        event.direction === 'read' &&
        event.offset === INTERRUPT_STATUS &&
        event.value === '0x100',
    );
    expect(first).toBeGreaterThan(0);
    // The header is line 1.
    expect(difference?.line).toBe(first + 2);
    expect([difference?.expected, difference?.got]).toEqual([
      'read interruptStatus = 0x100',
      'read interruptStatus = 0x0',
    ]);
  });

  it('shows the first byte that a device carries wrongly', async () => {
    class OffByOne extends Edu {
      override writeBar(bar: number, offset: number, from: Uint8Array): void {
        // Whatever the driver wants moved to memory, one byte of the buffer has changed by then.
        if (offset === 0x98 && ((from[0] ?? 0) & 2) !== 0)
          this.buffer[3] = (this.buffer[3] ?? 0) ^ 1;
        super.writeBar(bar, offset, from);
      }
    }
    const { difference } = await replay(recorded, () => new OffByOne());
    const first = recorded.events.findIndex(
      (event) => event.kind === 'dma' && event.direction === 'write',
    );
    expect(difference?.line).toBe(first + 2);
    expect(difference?.got).toMatch(/^DMA write of \d+ bytes at 0x[0-9a-f]+, from byte 3 on/);
  });

  it('is missed by a device that never ends what it computes', async () => {
    class Stuck extends Edu {
      override readBar(bar: number, offset: number, into: Uint8Array): void {
        super.readBar(bar, offset, into);
        if (offset === STATUS) into[0] = (into[0] ?? 0) | 1;
      }
    }
    const { difference } = await replay(recorded, () => new Stuck());
    expect(difference?.expected).toMatch(/^read status = .*computing 0/);
    expect(difference?.got).toMatch(/computing 1/);
  });
});
