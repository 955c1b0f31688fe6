import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Edu } from '../../../src/devices/edu/edu.ts';
import { VirtioIommu } from '../../../src/devices/iommu/virtio-iommu.ts';
import { FaultPlan, type Strike } from '../../../src/faults/index.ts';
import { Iommu } from '../../../src/iommu/iommu.ts';
import { ManualClock } from '../../../src/pci/index.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { FourSlots } from '../iommu/bench-memory.ts';
import { Bench } from '../pci/bench.ts';
import { faultBench, RID } from './bench.ts';
import { AT, Panel } from './panel.ts';

const OTHER = parseRequesterId('00:05.0');

/** A panel with a plan of faults, and a count of writes that reach it. */
function bench(options: { seed?: number; onStrike?: (strike: Strike) => void } = {}) {
  const device = new Panel();
  const made = faultBench(device, options);
  return { ...made, device };
}

/** Which of so many interrupts arrive. */
function arriving(plan: FaultPlan, count: number, rid = RID): number[] {
  const device = new Panel();
  const link = new Bench(plan.around(device, rid));
  return raised(device, link, count);
}

function raised(device: Panel, link: Bench, count: number): number[] {
  const came: number[] = [];
  for (let n = 1; n <= count; n++) {
    device.ring();
    if (link.interrupts.messages.splice(0).length > 0) came.push(n);
  }
  return came;
}

describe('a trigger', () => {
  it('nth strikes once, at that occasion', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 60 }),
        fc.integer({ min: 0, max: 70 }),
        (nth, count) => {
          const plan = new FaultPlan({ seed: 1 });
          const lose = plan.arm('interrupt.lose', { nth });
          const came = arriving(plan, count);
          const all = Array.from({ length: count }, (_, n) => n + 1);
          expect(came).toEqual(all.filter((n) => n !== nth));
          expect(lose.struck).toBe(count >= nth ? 1 : 0);
        },
      ),
    );
  });

  it('every strikes each multiple, as many times as it may', () => {
    const plan = new FaultPlan();
    plan.arm('interrupt.lose', { every: 3, times: 2 });
    expect(arriving(plan, 10)).toEqual([1, 2, 4, 5, 7, 8, 9, 10]);
  });

  it('when strikes what it says yes to, and sees what it is asked about', () => {
    const { plan, link } = bench();
    const asked: unknown[] = [];
    plan.arm('device.stall', {
      when: ({ rid, direction, register, bar, offset, width, value }) => {
        asked.push([rid, direction, register, bar, offset, width, value]);
        return register === 'rows';
      },
    });
    link.write(AT.doorbell, 5);
    link.write(AT.rows + 8, 0x1122, 2);
    link.write(AT.doorbell, 6);
    expect(asked).toEqual([
      [RID, 'write', 'doorbell', 0, AT.doorbell, 4, 5n],
      [RID, 'write', 'rows', 0, AT.rows + 8, 2, 0x1122n],
    ]);
  });

  it('rate strikes as often as it says, within five standard deviations', () => {
    const plan = new FaultPlan({ seed: 11 });
    const lose = plan.arm('interrupt.lose', { rate: 0.2 });
    arriving(plan, 10_000);
    expect(Math.abs(lose.struck - 2000)).toBeLessThan(5 * 40);
  });

  it.each([
    [{}, /exactly one of rate, nth, every, when, got none/],
    [{ nth: 1, rate: 0.5 }, /got rate and nth/],
    [{ rate: 1.5 }, /a rate from 0 to 1, got 1.5/],
    [{ rate: Number.NaN }, /a rate from 0 to 1, got NaN/],
    [{ nth: 0 }, /nth to be a whole number from 1 on, got 0/],
    [{ every: 1.5 }, /every to be a whole number/],
    [{ nth: 1, times: -1 }, /times to be a whole number/],
    [{ when: 5 }, /a function for when/],
    [{ nth: 1, ms: 3 }, /interrupt.lose takes no 'ms': expected none/],
  ])('%j is refused', (options, why) => {
    const plan = new FaultPlan();
    expect(() => plan.arm('interrupt.lose', options as unknown as { nth: 1 })).toThrow(why);
    expect(arriving(plan, 2)).toEqual([1, 2]);
  });

  it('of the wrong kind does not compile', () => {
    const plan = new FaultPlan();
    // @ts-expect-error two triggers
    expect(() => plan.arm('interrupt.lose', { nth: 1, every: 2 })).toThrow(TypeError);
    // @ts-expect-error no slot
    expect(() => plan.arm('dma.slot', { nth: 1 })).toThrow(/dma.slot needs 'slot'/);
    // @ts-expect-error no such fault
    expect(() => plan.arm('interrupt.eat', { nth: 1 })).toThrow(/got 'interrupt.eat'/);
    // @ts-expect-error no such reason
    expect(() => plan.arm('dma.refuse', { nth: 1, reason: 'mood' })).toThrow(/one of unmapped/);
  });
});

describe('the seed', () => {
  const faults = (seed: number) => {
    const plan = new FaultPlan({ seed });
    plan.arm('interrupt.lose', { rate: 0.3 });
    return arriving(plan, 200).join();
  };

  it('gives the same faults, run after run, and another seed others', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 32 - 2 }), (seed) => {
        expect(faults(seed)).toBe(faults(seed));
        expect(faults(seed)).not.toBe(faults(seed + 1));
      }),
    );
  });

  it('gives them whatever else is armed beside', () => {
    const lost = (more: (plan: FaultPlan) => void) => {
      const plan = new FaultPlan({ seed: 5 });
      plan.arm('interrupt.lose', { rate: 0.3 });
      more(plan);
      arriving(plan, 200);
      const strikes = plan.strikes.filter(({ fault }) => fault === 'interrupt.lose');
      return strikes.map(({ occasion }) => occasion);
    };
    const alone = lost(() => undefined);
    const among = lost((plan) => {
      plan.arm('interrupt.double', { rate: 0.3 });
      plan.arm('register.stuck', { rate: 0.5, register: 'status' });
    });
    expect(alone.length).toBeGreaterThan(30);
    expect(among).toEqual(alone);
  });

  it('gives them whatever another function does meanwhile', () => {
    const alone = faults(5);
    const plan = new FaultPlan({ seed: 5 });
    plan.arm('interrupt.lose', { rate: 0.3 });
    const devices = [new Panel(), new Panel()] as const;
    const links = [RID, OTHER].map((rid, n) => {
      return new Bench(plan.around(devices[n] as Panel, rid));
    }) as [Bench, Bench];
    const came: number[] = [];
    const elsewhere: number[] = [];
    for (let n = 1; n <= 200; n++) {
      if (raised(devices[0], links[0], 1).length > 0) came.push(n);
      if (n % 3 === 0) elsewhere.push(...raised(devices[1], links[1], 2));
    }
    expect(came.join()).toBe(alone);
    expect(elsewhere.length).toBeGreaterThan(0);
  });

  it('gives each armed fault and each function chances of its own', () => {
    const plan = new FaultPlan({ seed: 5 });
    plan.arm('interrupt.lose', { rate: 0.3 });
    const double = plan.arm('interrupt.double', { rate: 0.3 });
    const here = arriving(plan, 400);
    // Were their chances the same, the first would have taken each occasion.
    expect(double.struck).toBeGreaterThan(50);
    expect(arriving(plan, 400, OTHER)).not.toEqual(here);
  });

  it('is random where none is given, and of 32 bits', () => {
    const seeds = new Set(Array.from({ length: 20 }, () => new FaultPlan().seed));
    expect(seeds.size).toBeGreaterThan(15);
    for (const seed of seeds) expect(seed >>> 0).toBe(seed);
    for (const seed of [-1, 2 ** 32, 0.5]) {
      expect(() => new FaultPlan({ seed })).toThrow(/a seed of 32 bits/);
    }
  });
});

describe('a plan', () => {
  it('strikes functions that are plugged in before and after the arming', () => {
    const plan = new FaultPlan();
    const device = new Panel();
    const link = new Bench(plan.around(device, RID));
    const lose = plan.arm('interrupt.lose', { nth: 1 });
    expect(raised(device, link, 2)).toEqual([2]);
    expect(arriving(plan, 2, OTHER)).toEqual([2]);
    expect(lose.struck).toBe(2);
    expect(plan.strikes.map(({ rid }) => rid)).toEqual([RID, OTHER]);
  });

  it('strikes one function alone where it is told which', () => {
    const plan = new FaultPlan();
    plan.arm('interrupt.lose', { every: 1, rid: OTHER });
    expect(arriving(plan, 2)).toEqual([1, 2]);
    expect(arriving(plan, 2, OTHER)).toEqual([]);
  });

  it('strikes those functions that a fault fits, and refuses one that fits none', () => {
    const plan = new FaultPlan();
    const links = [
      new Bench(plan.around(new Panel(), RID)),
      new Bench(plan.around(new Edu(), OTHER)),
    ];
    const stuck = plan.arm('register.stuck', { every: 1, register: 'control.mode', value: 0x20 });
    expect(links.map((link) => link.read(AT.control))).toEqual([0x20, 0x0100_00ed]);
    expect(stuck.struck).toBe(1);
    expect(() => plan.arm('register.stuck', { nth: 1, register: 'colour' })).toThrow(RangeError);
    expect(() => plan.arm('register.stuck', { nth: 1, register: 'rows[0]', rid: OTHER })).toThrow(
      /a register of Edu/,
    );
    expect(plan.struck).toBe(1);
  });

  it('strikes a virtio-iommu only where that is named', () => {
    const plan = new FaultPlan();
    const iommu = new VirtioIommu({ iommu: new Iommu(new FourSlots()) });
    const link = new Bench(plan.around(iommu, RID));
    plan.arm('register.all-ones', { every: 1 });
    expect(link.read(0)).toBe(0);
    plan.arm('register.all-ones', { every: 1, rid: RID });
    expect(link.read(0)).toBe(0xffff_ffff);
  });

  it('tells of each strike at once, in order, with where and which', () => {
    const told: Strike[] = [];
    const { plan, device, link } = bench({ onStrike: (strike) => told.push(strike) });
    plan.arm('interrupt.lose', { every: 2 });
    plan.arm('device.stall', { nth: 1 });
    device.ring();
    device.ring();
    expect(told).toHaveLength(1);
    link.write(AT.doorbell, 1);
    expect(told).toEqual(plan.strikes);
    expect(told).toMatchObject([
      { sequence: 1, fault: 'interrupt.lose', rid: RID, occasion: 2 },
      { sequence: 2, fault: 'device.stall', rid: RID, occasion: 1 },
    ]);
  });

  it('keeps the newest 4096 strikes, and counts all', () => {
    const plan = new FaultPlan();
    plan.arm('interrupt.lose', { every: 1 });
    arriving(plan, 5000);
    expect(plan.struck).toBe(5000);
    expect(plan.strikes).toHaveLength(4096);
    expect(plan.strikes[0]?.sequence).toBe(905);
    expect(plan.strikes.at(-1)?.sequence).toBe(5000);
  });

  it('has one fault strike an occasion, the one that was armed first', () => {
    const { plan, device, interrupts } = bench();
    const double = plan.arm('interrupt.double', { every: 2 });
    const lose = plan.arm('interrupt.lose', { every: 2, times: 1 });
    for (let n = 0; n < 4; n++) device.ring();
    expect([double.struck, lose.struck]).toEqual([2, 0]);
    double.disarm();
    for (let n = 0; n < 2; n++) device.ring();
    expect(lose.struck).toBe(1);
    expect(interrupts.messages).toHaveLength(5);
  });

  it('puts off a bounded number: what comes then is not put off', () => {
    const { plan, device, clock, interrupts } = bench();
    plan.arm('interrupt.delay', { every: 1, ms: 10 });
    for (let n = 0; n < 1500; n++) device.ring();
    expect(interrupts.messages).toHaveLength(1500 - 1024);
    expect(clock.pending).toBe(1024);
    clock.advance(10e6);
    expect(interrupts.messages).toHaveLength(1500);
  });

  it('leaves nothing behind when its machine has ended', () => {
    const clock = new ManualClock();
    const plan = new FaultPlan({ clock });
    plan.arm('interrupt.delay', { every: 1 });
    arriving(plan, 5);
    expect(clock.pending).toBe(5);
    plan.end();
    expect(clock.pending).toBe(0);
  });
});
