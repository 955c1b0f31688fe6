/** Traces and faults on demand where VMs share a platform: each meets its own VM's functions, DMA and faults alone. */
import { describe, expect, test } from 'vitest';
import { Edu } from '../../../src/devices/edu/edu.ts';
import { FaultPlan } from '../../../src/faults/index.ts';
import type { PluggedFunction } from '../../../src/machine/machine.ts';
import { DmaAbort } from '../../../src/pci/dma-port.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { Trace, type TraceEvent } from '../../../src/trace/index.ts';
import { GPA, PAGE, Vms } from '../isolation/vms.ts';
import { noSealedRam } from '../memory/sealed-bench.ts';

const OUTSIDE = 0xf000_0000;

/** A DMA read of a function. @returns the reason where it was refused, else what it read */
function read({ port }: PluggedFunction, at: number, length = 64): string | Uint8Array {
  const into = new Uint8Array(length);
  try {
    port.readInto(at, into);
    return into;
  } catch (error) {
    if (error instanceof DmaAbort) return error.reason;
    throw error;
  }
}

function of(trace: Trace, ...kinds: readonly TraceEvent['kind'][]): TraceEvent[] {
  return trace.events.filter(({ kind }) => kinds.includes(kind));
}

const modes = [
  ['plain', undefined],
  ['sealed', noSealedRam()],
] as const;

describe.each(modes)('on one platform with %s memory', (mode, without) => {
  const it = test.skipIf(without !== undefined);

  it('each of two traces has its own VM’s accesses, DMA and refusals, and none of the other’s', async () => {
    await using vms = await Vms.on(mode);
    const traces = [new Trace({ dataBytesMax: 4 }), new Trace({ dataBytesMax: 4 })] as const;
    const [one, two] = [await vms.machine(traces[0]), await vms.machine(traces[1])];
    const untraced = await vms.machine();
    const plugged = [];
    for (const [n, machine] of [one, two, untraced].entries()) {
      const { vmm, plugged: made } = await vms.plug(machine, new Edu());
      vmm.memory.write(GPA, new Uint8Array(PAGE).fill(n + 1));
      plugged.push({ vmm, made });
    }
    // In turns, so that one that listened to all would have theirs between its own.
    for (const { vmm, made } of plugged) {
      await vmm.bar0.read32(0);
      expect(read(made, GPA)).toBeInstanceOf(Uint8Array);
      expect(read(made, OUTSIDE)).toBe('outside-memory');
    }
    for (const [n, rid] of ['00:05.0', '0001:00:05.0'].entries()) {
      const trace = traces[n] as Trace;
      const data = `0${n + 1}`.repeat(4);
      expect(of(trace, 'function', 'register', 'dma', 'fault')).toMatchObject([
        { kind: 'function', rid, name: 'Edu' },
        { kind: 'register', rid, register: 'identification' },
        { kind: 'dma', rid, bytes: 64, data, pieces: [{ slot: n + 1 }] },
        { kind: 'fault', rid, reason: 'outside-memory' },
      ]);
      expect(trace.events.every((event) => !('rid' in event) || event.rid === rid)).toBe(true);
    }
  });

  it('a VM that ends has its trace end with it; the other’s goes on', async () => {
    await using vms = await Vms.on(mode);
    const [first, second] = [new Trace(), new Trace()];
    const [one, two] = [await vms.machine(first), await vms.machine(second)];
    const gone = await vms.plug(one, new Edu());
    const stays = await vms.plug(two, new Edu());
    await gone.vmm[Symbol.asyncDispose]();
    await one[Symbol.asyncDispose]();
    const { length } = first.events;
    // Its port is nobody's now: the platform's log has it, and no trace.
    expect(read(gone.plugged, GPA)).toBe('no-device-table-entry');
    expect(read(stays.plugged, GPA)).toBeInstanceOf(Uint8Array);
    expect([first.events.length, first.dropped]).toEqual([length, 0]);
    expect(of(second, 'dma', 'fault')).toHaveLength(1);
  });

  it('DMA that a plan refuses is that of its VM alone, and the others’ IOMMU asks nobody', async () => {
    await using vms = await Vms.on(mode);
    const [plan, other] = [new FaultPlan({ seed: 1 }), new FaultPlan({ seed: 1 })];
    const [first, second] = [new Trace(), new Trace()];
    const [one, two] = [await vms.machine(plan, first), await vms.machine(other, second)];
    const struck = await vms.plug(one, new Edu());
    const spared = await vms.plug(two, new Edu());
    spared.vmm.memory.write(GPA, new Uint8Array(PAGE).fill(2));
    const refuse = plan.arm('dma.refuse', { every: 1, reason: 'blocked-domain' });
    const { iommu } = vms.platform;
    expect(iommu.segment(two.segment).tamper).toBeUndefined();
    for (let round = 0; round < 5; round++) {
      expect(read(struck.plugged, GPA)).toBe('blocked-domain');
      expect(read(spared.plugged, GPA)).toEqual(new Uint8Array(64).fill(2));
    }
    expect([refuse.struck, plan.struck, other.struck]).toEqual([5, 5, 0]);
    expect(of(first, 'injected', 'fault')).toHaveLength(10);
    expect(of(second, 'injected', 'fault')).toEqual([]);
    // And the other way round at the same time.
    other.arm('dma.slot', { nth: 1, slot: one.slot });
    refuse.disarm();
    expect(read(struck.plugged, GPA)).toBeInstanceOf(Uint8Array);
    expect(read(spared.plugged, GPA)).toBe('slot-of-another-vm');
    expect(read(spared.plugged, GPA)).toEqual(new Uint8Array(64).fill(2));
    expect([plan.struck, other.struck]).toEqual([5, 1]);
  });

  it('a bit flips in its own VM’s memory', async () => {
    await using vms = await Vms.on(mode);
    const plan = new FaultPlan({ seed: 1 });
    const [one, two] = [await vms.machine(plan), await vms.machine()];
    const flipped = await vms.plug(one, new Edu());
    const whole = await vms.plug(two, new Edu());
    const content = new Uint8Array(PAGE).fill(0x55);
    for (const { vmm } of [flipped, whole]) vmm.memory.write(GPA, content);
    const dram = () => Buffer.from(two.sealed?.dram() ?? []);
    await two.sealed?.flush();
    const before = dram();
    plan.arm('dram.flip', { nth: 1, gpa: GPA + 100, bit: 0 });
    expect(read(flipped.plugged, GPA, PAGE)).not.toEqual(content);
    expect(read(whole.plugged, GPA, PAGE)).toEqual(content);
    expect(plan.struck).toBe(1);
    expect(Buffer.compare(dram(), before)).toBe(0);
  });

  it('a function that is moved away leaves the first VM’s instruments, and meets the second’s', async () => {
    await using vms = await Vms.on(mode);
    const [from, to] = [new FaultPlan({ seed: 1 }), new FaultPlan({ seed: 1 })];
    const trace = new Trace();
    const [one, two] = [await vms.machine(from), await vms.machine(to, trace)];
    from.arm('dma.refuse', { every: 1 });
    const { plugged } = await vms.plug(one, new Edu());
    const moved = await vms.platform.move(plugged, two, { endpoint: new Edu() });
    await vms.connect(moved);
    expect(read(moved, GPA)).toBeInstanceOf(Uint8Array);
    expect(from.struck).toBe(0);
    expect(of(trace, 'function', 'dma')).toMatchObject([
      { kind: 'function', rid: '0001:00:05.0' },
      { kind: 'dma', rid: '0001:00:05.0' },
    ]);
    // Its place in the first VM is free for another, which what is armed strikes.
    const next = await vms.plug(one, new Edu());
    expect(next.plugged.rid).toBe(plugged.rid);
    expect(read(next.plugged, GPA)).toBe('unmapped');
    expect(from.strikes).toMatchObject([{ rid: parseRequesterId('00:05.0') }]);
  });

  it('a function that cannot be plugged in leaves its place free, for the plan as well', async () => {
    await using vms = await Vms.on(mode);
    const plan = new FaultPlan();
    const machine = await vms.machine(plan);
    const place = parseRequesterId('00:05.0');
    expect(() => machine.plug(new Edu(), place, import.meta.filename)).toThrow(/no socket/);
    plan.arm('dma.refuse', { every: 1 });
    expect(read((await vms.plug(machine, new Edu())).plugged, GPA)).toBe('unmapped');
  });

  it('a plan that two VMs are given is refused, and nothing is left of the second', async () => {
    await using vms = await Vms.on(mode);
    const plan = new FaultPlan();
    await vms.machine(plan);
    const slots = vms.platform.keys.list();
    const told: string[] = [];
    const beside = (name: string) => ({
      install: () => void told.push(`${name} installed`),
      end: () => void told.push(`${name} ended`),
    });
    await expect(vms.machine(beside('before'), plan, beside('after'))).rejects.toThrow(
      /a plan of faults for each machine/,
    );
    expect(told).toEqual(['before installed', 'before ended']);
    expect(vms.platform.keys.list()).toEqual(slots);
    expect(vms.platform.tenants.size).toBe(1);
  });
});
