import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FaultPlan } from '../../../src/faults/index.ts';
import { BlockedDomain, IdentityDomain } from '../../../src/iommu/domain.ts';
import { Iommu } from '../../../src/iommu/iommu.ts';
import { keySlot } from '../../../src/keys/key-slot.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { MemoryError } from '../../../src/memory/guest-memory.ts';
import {
  DmaAbort,
  type DmaAccess,
  type DmaPort,
  ManualClock,
  PciFunction,
  ResetAbort,
} from '../../../src/pci/index.ts';
import { FourSlots, nativeMemory } from '../iommu/bench-memory.ts';
import { BenchInterrupts } from '../pci/bench.ts';
import { RID, told } from './bench.ts';

const BYTES = 64 * 1024;
const MS = 1e6;

/** Does nothing but what a test has it do. */
class Mover extends PciFunction {
  static override readonly id = { vendor: 0x1b36, device: 4, class: 0xff0000 };
  readonly resets: string[] = [];

  get port(): DmaPort {
    return this.dma;
  }

  /** What the device's specification calls a reset. */
  restart(): void {
    this.endWork();
  }

  protected override onReset(cause: string): void {
    this.resets.push(cause);
  }
}

/** A function behind a real IOMMU and plain memory, with a plan in between. */
function machine(seed = 1) {
  const clock = new ManualClock();
  const plan = new FaultPlan({ seed, clock });
  const iommu = new Iommu(new FourSlots());
  const { memory, bytes } = nativeMemory(BYTES);
  const domain = new IdentityDomain(iommu.newDomainId());
  const entry = { domain, vm: vmId(1), slot: keySlot(1), rights: 'read-write' } as const;
  iommu.table.set(RID, entry);
  const functions: { readonly memory: typeof memory }[] = [];
  const heard: string[] = [];
  const watching = { injected: (_: unknown, fault: string) => void heard.push(fault) };
  plan.install({ iommu, segment: 0, slot: keySlot(1), functions, instruments: [plan, watching] });
  const device = new Mover();
  const port = iommu.port(RID, memory);
  port.busMaster = true;
  const resets: string[] = [];
  const endpoint = plan.around(device, RID);
  endpoint.plug({
    dma: port,
    interrupts: new BenchInterrupts(),
    unmodelled: () => undefined,
    fault: () => undefined,
    place: {
      reset: (cause) => {
        resets.push(cause);
        endpoint.reset(cause);
      },
      setPresent: () => undefined,
    },
  });
  functions.push({ memory });
  const reasons = () => iommu.faults.records.map(({ reason }) => reason);
  return { plan, clock, iommu, entry, device, endpoint, bytes, resets, reasons, heard };
}

function accesses(...iovas: readonly number[]): DmaAccess[] {
  return iovas.map((iova) => ({ iova, bytes: new Uint8Array(16).fill(iova), abort: undefined }));
}

describe('dma.refuse', () => {
  it('refuses as the IOMMU does: an abort, one record, and no byte', () => {
    const { plan, iommu, device, bytes } = machine();
    plan.arm('dma.refuse', { nth: 2, reason: 'no-write-permission' });
    device.port.writeFrom(0, Uint8Array.of(1, 1));
    expect(() => device.port.writeFrom(0, Uint8Array.of(2, 2))).toThrow(DmaAbort);
    device.port.writeFrom(2, Uint8Array.of(3, 3));
    expect([...bytes.subarray(0, 4)]).toEqual([1, 1, 3, 3]);
    expect(iommu.faults.records).toMatchObject([
      { rid: RID, direction: 'write', iova: 0, length: 2, reason: 'no-write-permission' },
    ]);
    expect(told(plan)).toEqual([
      'dma.refuse: write of 2 bytes at 0x0 refused: no-write-permission',
    ]);
  });

  it('strikes one access of a batch, and the others are done', () => {
    const { plan, device, bytes, reasons } = machine();
    plan.arm('dma.refuse', { nth: 2 });
    const batch = accesses(0x10, 0x20, 0x30);
    expect(device.port.writeBatch(batch, 3)).toBe(1);
    expect(batch.map(({ abort }) => abort?.reason)).toEqual([undefined, 'unmapped', undefined]);
    expect([bytes[0x10], bytes[0x20], bytes[0x30]]).toEqual([0x10, 0, 0x30]);
    expect(reasons()).toEqual(['unmapped']);
  });

  it('counts one way alone where it is told to', () => {
    const { plan, device } = machine();
    const refuse = plan.arm('dma.refuse', { every: 1, direction: 'read' });
    device.port.writeFrom(0, new Uint8Array(4));
    expect(refuse.struck).toBe(0);
    expect(() => device.port.readInto(0, new Uint8Array(4))).toThrow(DmaAbort);
  });

  it('has the IOMMU ask for as long as it is armed and no longer', () => {
    const { plan, iommu } = machine();
    expect(iommu.segment(0).tamper).toBeUndefined();
    const first = plan.arm('dma.refuse', { nth: 1 });
    const second = plan.arm('dram.flip', { nth: 1 });
    plan.arm('interrupt.lose', { nth: 1 });
    expect(iommu.segment(0).tamper).toBeDefined();
    first.disarm();
    expect(iommu.segment(0).tamper).toBeDefined();
    second.disarm();
    expect(iommu.segment(0).tamper).toBeUndefined();
    plan.arm('dma.slot', { nth: 1, slot: 2 });
    plan.end();
    expect(iommu.segment(0).tamper).toBeUndefined();
  });
});

describe('dma.slot', () => {
  it.each([
    [2, 'slot-of-another-vm'],
    [3, 'slot-not-active'],
    [9, 'slot-empty'],
  ])('goes by slot %i, which the IOMMU refuses by itself: %s', (slot, reason) => {
    const { plan, device, bytes, reasons } = machine();
    bytes.fill(5);
    plan.arm('dma.slot', { nth: 1, slot });
    const into = new Uint8Array(8).fill(9);
    expect(() => device.port.readInto(0, into)).toThrow(DmaAbort);
    expect([...into]).toEqual(new Array(8).fill(9));
    expect(reasons()).toEqual([reason]);
    device.port.readInto(0, into);
    expect([...into]).toEqual(new Array(8).fill(5));
  });

  it('holds for the access that is struck alone, in a batch too', () => {
    const { plan, device, reasons } = machine();
    plan.arm('dma.slot', { nth: 2, slot: 2 });
    const batch = accesses(0x10, 0x20, 0x30);
    expect(device.port.readBatch(batch, 3)).toBe(1);
    expect(batch.map(({ abort }) => abort?.reason)).toEqual([
      ...[undefined, 'slot-of-another-vm', undefined],
    ]);
    expect(reasons()).toHaveLength(1);
  });
});

describe('dram.flip', () => {
  it('flips the bit before the DMA reads it, and once', () => {
    const { plan, device, bytes } = machine();
    plan.arm('dram.flip', { nth: 2, gpa: 0x1003, bit: 4 });
    const into = new Uint8Array(8);
    device.port.readInto(0x1000, into);
    expect(into.every((byte) => byte === 0)).toBe(true);
    device.port.writeFrom(0x3000, new Uint8Array(8));
    expect(plan.struck).toBe(0);
    device.port.readInto(0x1000, into);
    expect([...into]).toEqual([0, 0, 0, 16, 0, 0, 0, 0]);
    device.port.readInto(0x1000, into);
    expect(bytes.reduce((sum, byte) => sum + byte, 0)).toBe(16);
    expect(told(plan)).toEqual(['dram.flip: bit 4 of the byte at 0x1003']);
  });

  it('without a place flips one bit of what the DMA reads, by the seed', () => {
    const drawn = new Set<string>();
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 2 ** 32 - 1 }),
        fc.integer({ min: 0, max: BYTES - 64 }),
        fc.integer({ min: 1, max: 64 }),
        (seed, at, length) => {
          const { plan, device, bytes } = machine(seed);
          plan.arm('dram.flip', { nth: 1 });
          const into = new Uint8Array(length);
          device.port.readInto(at, into);
          const bits = [...into].flatMap((byte, n) => (byte === 0 ? [] : [[n, byte] as const]));
          expect(bits).toHaveLength(1);
          const [[byte, value] = [0, 0]] = bits;
          expect(Number.isInteger(Math.log2(value))).toBe(true);
          expect(bytes[at + byte]).toBe(value);
          drawn.add(`${byte} ${value}`);
        },
      ),
    );
    expect(drawn.size).toBeGreaterThan(20);
  });

  it('does not strike where no memory is, and the DMA goes on', () => {
    const { plan, device } = machine();
    const flip = plan.arm('dram.flip', { every: 1, gpa: BYTES });
    device.port.readInto(0, new Uint8Array(8));
    expect(flip.struck).toBe(0);
  });

  it('leaves DRAM alone where the DMA leads nowhere', () => {
    const { plan, device, iommu, entry, bytes } = machine();
    const flip = plan.arm('dram.flip', { nth: 1 });
    iommu.table.set(RID, { ...entry, domain: new BlockedDomain(iommu.newDomainId()) });
    expect(() => device.port.readInto(0, new Uint8Array(8))).toThrow(DmaAbort);
    expect(flip.struck).toBe(0);
    expect(bytes.every((byte) => byte === 0)).toBe(true);
  });

  it('is to be had at once, by an address', () => {
    const { plan, bytes } = machine();
    plan.flipBit(77, 7);
    expect(bytes[77]).toBe(128);
    expect(() => plan.flipBit(BYTES, 0)).toThrow(MemoryError);
    expect(() => plan.flipBit(0, 8)).toThrow(/a bit from 0 to 7/);
    expect(() => new FaultPlan().flipBit(0, 0)).toThrow(/guest memory at 0x0, got none/);
  });
});

describe('dma.delay', () => {
  it('has an awaited DMA wait, and no other', async () => {
    const { plan, clock, device, bytes } = machine();
    plan.arm('dma.delay', { every: 1, ms: 3 });
    const write = device.port.write(0x10, Uint8Array.of(7));
    device.port.writeFrom(0x11, Uint8Array.of(8));
    await Promise.resolve();
    expect([bytes[0x10], bytes[0x11]]).toEqual([0, 8]);
    clock.advance(3 * MS);
    await write;
    expect(bytes[0x10]).toBe(7);
    expect(plan.struck).toBe(1);
  });

  it('ends with a reset of the function, and reaches no memory', async () => {
    const { plan, clock, device, endpoint, bytes } = machine();
    plan.arm('dma.delay', { nth: 1, ms: 3 });
    const write = device.port.write(0x10, Uint8Array.of(7));
    const outcome = expect(write).rejects.toThrow(ResetAbort);
    endpoint.reset('device');
    await outcome;
    expect([bytes[0x10], clock.pending]).toEqual([0, 0]);
  });

  it('reaches no memory after a reset that the device makes by itself', async () => {
    const { plan, clock, device, bytes } = machine();
    plan.arm('dma.delay', { nth: 1, ms: 3 });
    const write = device.port.write(0x10, Uint8Array.of(7));
    const outcome = expect(write).rejects.toThrow(ResetAbort);
    device.restart();
    clock.advance(3 * MS);
    await outcome;
    expect(bytes[0x10]).toBe(0);
  });
});

describe('reset.during a DMA', () => {
  it('moves the first half, resets the function from outside, and ends the work', () => {
    const { plan, device, bytes, resets } = machine();
    plan.arm('reset.during', { nth: 1 });
    const { port } = device;
    expect(() => port.writeFrom(0, new Uint8Array(9).fill(1))).toThrow(ResetAbort);
    expect([...bytes.subarray(0, 9)]).toEqual([1, 1, 1, 1, 0, 0, 0, 0, 0]);
    expect([resets, device.resets]).toEqual([['function-level'], ['function-level']]);
    expect(() => port.writeFrom(0, Uint8Array.of(2))).toThrow(ResetAbort);
    device.port.writeFrom(0, Uint8Array.of(3));
    expect(bytes[0]).toBe(3);
    expect(told(plan)).toEqual(['reset.during: in a DMA write of 9 bytes at 0x0']);
  });

  it('comes into an awaited DMA as well', async () => {
    const { plan, device, resets } = machine();
    plan.arm('reset.during', { nth: 1 });
    await expect(device.port.read(0, 8)).rejects.toThrow(ResetAbort);
    expect(resets).toEqual(['function-level']);
  });

  it('does the first half of a batch, whose accesses are counted one by one', () => {
    const { plan, device, bytes } = machine();
    plan.arm('reset.during', { nth: 5 });
    device.port.writeBatch(accesses(1), 1);
    expect(() => device.port.writeBatch(accesses(0x20, 0x40, 0x60, 0x80), 4)).toThrow(ResetAbort);
    expect([0x20, 0x40, 0x60, 0x80].map((at) => bytes[at])).toEqual([0x20, 0x40, 0, 0]);
  });

  it('comes all the same into one that is a byte, or is refused', () => {
    const { plan, device, resets } = machine();
    plan.arm('reset.during', { every: 1 });
    expect(() => device.port.writeFrom(0, Uint8Array.of(2))).toThrow(ResetAbort);
    expect(() => device.port.readInto(BYTES, new Uint8Array(8))).toThrow(ResetAbort);
    expect(resets).toHaveLength(2);
  });
});

describe('the machine of a plan', () => {
  it('is one at a time', () => {
    const { plan, iommu } = machine();
    const other = { iommu, segment: 0, slot: keySlot(1), functions: [], instruments: [plan] };
    expect(() => plan.install(other)).toThrow(/each machine/);
    expect(() => plan.around(new Mover(), RID)).toThrow(/a second 0000:00:04.0/);
    plan.end();
    plan.install(other);
    plan.around(new Mover(), RID);
  });

  it('has its other instruments hear of each strike', () => {
    const { plan, device, heard } = machine();
    plan.arm('dma.refuse', { nth: 1 });
    plan.arm('dram.flip', { nth: 2 });
    expect(() => device.port.readInto(0, new Uint8Array(4))).toThrow(DmaAbort);
    device.port.readInto(0, new Uint8Array(4));
    expect(heard).toEqual(['dma.refuse', 'dram.flip']);
  });
});
