import { describe, expect, it } from 'vitest';
import { memoryBar, PciFunction, wo32 } from '../../../src/pci/index.ts';
import { faultBench, told } from './bench.ts';

const RAISE = 0x00;
const LOWER = 0x04;
const MS = 1e6;

/** Raises what it is told to, by a message or by INTA#. */
class Bell extends PciFunction {
  static override readonly id = { vendor: 0x1b36, device: 1, class: 0xff0000 };
  static override readonly interrupts = { intx: true, msix: 4 };
  readonly bar0 = memoryBar(16, {
    raise: wo32(RAISE, { onWrite: (vector) => this.interrupt.raise(vector) }),
    lower: wo32(LOWER, { onWrite: () => this.interrupt.lower() }),
  });
}

describe('an interrupt by message', () => {
  it('is lost, that one alone', () => {
    const { plan, link, interrupts } = faultBench(new Bell());
    const fault = plan.arm('interrupt.lose', { nth: 2 });
    for (const vector of [0, 1, 2]) link.write(RAISE, vector);
    expect(interrupts.messages).toEqual([0, 2]);
    expect(fault.struck).toBe(1);
    expect(told(plan)).toEqual(['interrupt.lose: vector 1 lost']);
  });

  it('comes twice, the second time after a while', () => {
    const { plan, link, clock, interrupts } = faultBench(new Bell());
    plan.arm('interrupt.double', { nth: 1, ms: 5 });
    link.write(RAISE, 3);
    link.write(RAISE, 1);
    clock.advance(5 * MS - 1);
    expect(interrupts.messages).toEqual([3, 1]);
    clock.advance(1);
    expect(interrupts.messages).toEqual([3, 1, 3]);
  });

  it('comes late, and others overtake it', () => {
    const { plan, link, clock, interrupts } = faultBench(new Bell());
    plan.arm('interrupt.delay', { nth: 1, ms: 5 });
    link.write(RAISE, 3);
    link.write(RAISE, 1);
    expect(interrupts.messages).toEqual([1]);
    clock.advance(5 * MS);
    expect(interrupts.messages).toEqual([1, 3]);
  });

  it.each(['interrupt.double', 'interrupt.delay'] as const)(
    'that is put off (%s) does not come after a reset of the function',
    (name) => {
      const { plan, link, clock, endpoint, interrupts } = faultBench(new Bell());
      plan.arm(name, { nth: 1, ms: 5 });
      link.write(RAISE, 3);
      const before = interrupts.messages.length;
      endpoint.reset('function-level');
      clock.advance(1000 * MS);
      expect(interrupts.messages).toHaveLength(before);
      expect(clock.pending).toBe(0);
    },
  );
});

describe('INTA#', () => {
  it('stays down where its going up is lost, and rises at the next interrupt', () => {
    const { plan, link, interrupts } = faultBench(new Bell());
    interrupts.mode = 'intx';
    plan.arm('interrupt.lose', { nth: 1 });
    link.write(RAISE, 0);
    expect(interrupts.level).toBe(false);
    link.write(RAISE, 0);
    expect(interrupts.level).toBe(true);
    link.write(LOWER, 0);
    expect(interrupts.level).toBe(false);
    expect(told(plan)).toEqual(['interrupt.lose: INTA# lost']);
  });

  it('that is late does not rise once the device has lowered it', () => {
    const { plan, link, clock, interrupts } = faultBench(new Bell());
    interrupts.mode = 'intx';
    plan.arm('interrupt.delay', { every: 1, ms: 5 });
    link.write(RAISE, 0);
    link.write(LOWER, 0);
    clock.advance(10 * MS);
    expect(interrupts.level).toBe(false);
    link.write(RAISE, 0);
    expect(interrupts.level).toBe(false);
    clock.advance(5 * MS);
    expect(interrupts.level).toBe(true);
  });

  it('that is doubled falls and rises again, where it is still up', () => {
    const { plan, link, clock, interrupts } = faultBench(new Bell());
    interrupts.mode = 'intx';
    const levels: boolean[] = [];
    interrupts.intx = (asserted) => void levels.push(asserted);
    plan.arm('interrupt.double', { nth: 1, ms: 5 });
    link.write(RAISE, 0);
    clock.advance(5 * MS);
    expect(levels).toEqual([true, false, true]);
  });
});
