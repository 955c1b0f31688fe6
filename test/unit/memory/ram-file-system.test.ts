import { constants, ftruncateSync } from 'node:fs';
import { afterAll, beforeEach, describe, expect, test } from 'vitest';
import {
  close,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  memfdCreate,
  mmap,
  PROT_READ,
  PROT_WRITE,
  viewOfAddress,
} from '../../../src/ffi/libc.ts';
import { keySlot } from '../../../src/keys/key-slot.ts';
import { KeyTable } from '../../../src/keys/key-table.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { Dram } from '../../../src/memory/controller/dram.ts';
import { RamFileSystem } from '../../../src/memory/controller/ram-file-system.ts';
import { SealedFile } from '../../../src/memory/controller/sealed-file.ts';
import { DmaGate, GateOutcome } from '../../../src/memory/dma-gate.ts';
import {
  IN_HEADER_BYTES,
  IO_LOCKOWNER,
  Opcode,
  ROOT_NODE,
  WRITE_CACHE,
} from '../../../src/memory/fuse/abi.ts';
import { EACCES, EAGAIN, EIO } from '../../../src/memory/fuse/errno.ts';

const BYTES = 16 * 4096;
const SLOT = keySlot(1);
const VM = vmId(1);
const NODE = ROOT_NODE + 1;

const keys = new KeyTable();
keys.generate(SLOT, { vm: VM });
keys.activate(SLOT);
afterAll(() => keys.close());

function anonymous(bytes: number): number {
  return mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
}

const transferAt = anonymous(BYTES);
const transfer = viewOfAddress(transferAt, BYTES);
const gateAt = anonymous(DmaGate.bytesFor(BYTES));

describe('which port a request is for', () => {
  let files: RamFileSystem;
  let file: SealedFile;
  let gate: DmaGate;
  let cpu: number;
  let dma: number;

  beforeEach(() => {
    const dram = memfdCreate('dram');
    ftruncateSync(dram, BYTES);
    gate = new DmaGate(gateAt, BYTES);
    gate.open(0);
    file = new SealedFile(VM, SLOT, new Dram(dram, BYTES), gate, {
      keysFor: (slot, vm) => (slot === SLOT ? keys.keysFor(SLOT, vm) : undefined),
    });
    close(dram);
    files = new RamFileSystem();
    files.add('vm', file);
    cpu = open(0);
    dma = open(constants.O_DIRECT);
  });

  function open(flags: number): number {
    const bytes = new DataView(new ArrayBuffer(IN_HEADER_BYTES + 8));
    bytes.setUint32(IN_HEADER_BYTES, flags, true);
    const answer = new DataView(new ArrayBuffer(64));
    expect(files.control({ opcode: Opcode.OPEN, node: NODE, bytes }, answer)).toBeGreaterThan(0);
    return Number(answer.getBigUint64(0, true));
  }

  function ask(index: number, slot: number, offset: number, length: number): void {
    gate.ask(index, slot, offset, length);
    gate.open(index + 1);
  }

  function write(handle: number, flags: number, value: number, offset = 50): number {
    transfer.fill(value, 0, 100);
    return files.write(NODE, handle, offset, 100, transferAt, flags);
  }

  function stored(): number[] {
    expect(files.read(NODE, cpu, 0, 4096, transferAt, 0)).toBe(4096);
    return [...new Set(transfer.subarray(50, 150))];
  }

  test('a direct write is a DMA, which a cache fill since it was asked for puts off', () => {
    ask(0, SLOT, 50, 100);
    expect(write(dma, IO_LOCKOWNER, 1)).toBe(100);
    expect(gate.outcome(0)).toBe(GateOutcome.done);
    ask(0, SLOT, 50, 100);
    expect(stored()).toEqual([1]);
    expect(write(dma, IO_LOCKOWNER, 2)).toBeLessThan(0);
    expect(gate.outcome(0)).toBe(GateOutcome.refilled);
    expect(stored()).toEqual([1]);
  });

  test('a write through the page cache with the DMA port’s handle is not refused, and no DMA', () => {
    // The kernel could not drop the page; an error would make it forget the vCPUs' stores in it.
    ask(0, keySlot(2), 50, 100);
    expect(stored()).toEqual([0]);
    expect(write(dma, 0, 3)).toBe(100);
    expect(gate.outcome(0)).toBe(GateOutcome.none);
    expect(stored()).toEqual([3]);
    expect(file.counters.dmaWrites).toBe(0);
  });

  test('a read into the page cache with the DMA port’s handle is a fill, and counted', () => {
    ask(0, SLOT, 50, 100);
    expect(files.read(NODE, dma, 0, 4096, transferAt, 0)).toBe(4096);
    expect(gate.outcome(0)).toBe(GateOutcome.none);
    expect(gate.undisturbed(0, 50, 100)).toBe(false);
    expect(files.read(NODE, dma, 50, 100, transferAt, IO_LOCKOWNER)).toBe(100);
    expect(gate.outcome(0)).toBe(GateOutcome.done);
    expect(file.counters).toMatchObject({ fills: 1, dmaReads: 1 });
  });

  test('a write-back is the CPU’s, whatever handle it carries', () => {
    for (const handle of [cpu, dma]) {
      expect(write(handle, WRITE_CACHE, 4 + handle)).toBe(100);
      expect(stored()).toEqual([4 + handle]);
    }
    expect(file.counters).toMatchObject({ writeBacks: 2, dmaWrites: 0 });
    expect(write(cpu, IO_LOCKOWNER, 9)).toBeLessThan(0);
  });

  test('each of several accesses is looked at by its own entry, in whatever order they come', () => {
    ask(0, SLOT, 50, 100);
    ask(1, keySlot(2), 4096 + 50, 100);
    ask(2, SLOT, 2 * 4096 + 50, 100);
    expect(files.read(NODE, cpu, 2 * 4096, 4096, transferAt, 0)).toBe(4096);
    expect(write(dma, IO_LOCKOWNER, 7, 2 * 4096 + 50)).toBe(-EAGAIN);
    expect(write(dma, IO_LOCKOWNER, 7, 4096 + 50)).toBe(-EACCES);
    expect(write(dma, IO_LOCKOWNER, 7)).toBe(100);
    const { done, slotRefused, refilled } = GateOutcome;
    expect([0, 1, 2].map((index) => gate.outcome(index))).toEqual([done, slotRefused, refilled]);
    expect(stored()).toEqual([7]);
    expect(file.counters).toMatchObject({ dmaWrites: 1, dmaRetries: 1, slotRefusals: 1 });
  });

  test('a direct access that nobody asks for, or asks for any more, does nothing', () => {
    const direct = [
      () => write(dma, IO_LOCKOWNER, 8),
      () => files.read(NODE, dma, 50, 100, transferAt, IO_LOCKOWNER),
    ];
    for (const access of direct) expect(access()).toBe(-EIO);
    ask(0, SLOT, 50, 99);
    ask(1, SLOT, 51, 100);
    for (const access of direct) expect(access()).toBe(-EIO);
    ask(1, SLOT, 50, 100);
    gate.open(0);
    for (const access of direct) expect(access()).toBe(-EIO);
    expect(stored()).toEqual([0]);
    expect(file.counters).toMatchObject({ dmaReads: 0, dmaWrites: 0 });
  });
});
