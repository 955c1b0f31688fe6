import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Edu } from '../../../src/devices/edu/edu.ts';
import { FaultPlan } from '../../../src/faults/index.ts';
import { ManualClock } from '../../../src/pci/index.ts';
import { Bench } from '../pci/bench.ts';
import { Echo } from '../virtio/echo.ts';
import { faultBench, RID, told } from './bench.ts';
import { AT, Panel } from './panel.ts';

const ONES = 0xffff_ffff;

describe('register.all-ones', () => {
  it('reads all ones from the access that is struck on, whatever the register', () => {
    const { plan, link } = faultBench(new Panel());
    plan.arm('register.all-ones', { nth: 2 });
    expect(link.read(AT.status)).toBe(0xa5a5_0001);
    expect(link.read(AT.status)).toBe(ONES);
    expect(link.readWide(AT.wide)).toBe(0xffff_ffff_ffff_ffffn);
    expect(link.read(AT.memory, 1)).toBe(0xff);
    expect(told(plan)).toEqual([
      'register.all-ones: removed before a read of 4 bytes of BAR0 at 0x4',
    ]);
  });

  it('takes no write any more, and no reset reaches the function', () => {
    const device = new Panel();
    const { plan, link, endpoint } = faultBench(device);
    plan.arm('register.all-ones', { nth: 1 });
    link.write(AT.doorbell, 1);
    endpoint.reset('function-level');
    expect(device.log).toEqual(['reset: connection-lost']);
    expect(link.read(AT.control)).toBe(ONES);
  });

  it('ends DMA and interrupts, also those that were under way', () => {
    const clock = new ManualClock();
    const device = new Edu({ clock, delayNs: 1000 });
    const { plan, link, memory, interrupts } = faultBench(device);
    interrupts.mode = 'msi';
    device.buffer.fill(7);
    const gone = plan.arm('register.all-ones', {
      when: ({ register, direction }) => register === 'status' && direction === 'read',
    });
    transfer(link, 5);
    link.read(0x20);
    clock.advance(1e9);
    expect(gone.struck).toBe(1);
    expect(memory.every((byte) => byte === 0)).toBe(true);
    expect(interrupts.messages).toEqual([]);
    expect(device.failed).toBeUndefined();
  });

  it('is over when it is disarmed: the function is there again, as after power-on', () => {
    const device = new Panel();
    const { plan, link, interrupts } = faultBench(device);
    link.write(AT.rows, 77);
    const gone = plan.arm('register.all-ones', { nth: 1 });
    expect(link.read(AT.rows)).toBe(ONES);
    gone.disarm();
    expect(link.read(AT.rows)).toBe(0);
    link.write(AT.doorbell, 3);
    expect(device.log).toEqual(['reset: connection-lost', 'reset: device', 'doorbell 3']);
    expect(interrupts.messages).toEqual([]);
  });

  it('lowers INTA#', () => {
    const device = new Edu();
    const { plan, link, interrupts } = faultBench(device);
    interrupts.mode = 'intx';
    link.write(0x60, 1);
    expect(interrupts.level).toBe(true);
    plan.arm('register.all-ones', { nth: 1 });
    link.read(0);
    expect(interrupts.level).toBe(false);
  });
});

describe('register.stuck', () => {
  it('keeps what it reads when it gets stuck, against the driver and the device', () => {
    const device = new Panel();
    const { plan, link } = faultBench(device);
    link.write(AT.rows + 4, 0x1234);
    plan.arm('register.stuck', { nth: 1, register: 'rows[1]' });
    expect(link.read(AT.rows + 4)).toBe(0x1234);
    link.write(AT.rows + 4, 0x9999);
    device.bar0.rows[1] = 0x7777;
    expect(link.read(AT.rows + 4)).toBe(0x1234);
    expect([link.read(AT.rows), link.read(AT.rows + 8)]).toEqual([0, 0]);
  });

  it('is stuck in a field alone, at the value that is given', () => {
    const device = new Panel();
    const { plan, link } = faultBench(device);
    plan.arm('register.stuck', { nth: 1, register: 'control.busy', value: 0x100 });
    expect(link.read(AT.control)).toBe(0x100);
    link.write(AT.control, 0x21);
    expect(link.read(AT.control)).toBe(0x121);
    expect(told(plan)).toEqual(['register.stuck: control.busy, bits 0x100']);
  });

  it('keeps what the driver writes in those bits from the device', () => {
    const device = new Panel();
    const { plan, link } = faultBench(device);
    plan.arm('register.stuck', { nth: 1, register: 'control.go', value: 0 });
    link.write(AT.control, 0x31);
    expect(device.log).toEqual(['control go false mode 3']);
    plan.arm('register.stuck', { nth: 1, offset: AT.doorbell, value: 9 });
    link.write(AT.doorbell, 1);
    expect(device.log).toEqual(['control go false mode 3', 'doorbell 9']);
  });

  it('comes loose when it is disarmed', () => {
    const { plan, link } = faultBench(new Panel());
    const stuck = plan.arm('register.stuck', { every: 1, register: 'status', value: 5 });
    plan.arm('device.stall', { rate: 0 });
    for (let n = 0; n < 3; n++) expect(link.read(AT.status)).toBe(5);
    stuck.disarm();
    expect(link.read(AT.status)).toBe(0xa5a5_0001);
    expect(stuck.struck).toBe(1);
  });

  it('is one of its BAR, and no other', () => {
    const { plan, link } = faultBench(new Echo());
    plan.arm('register.stuck', { nth: 1, register: 'count', value: 7 });
    expect([link.read(12, 4, 1), link.read(12, 4, 0), link.read(0, 4, 1)]).toEqual([
      ...[7, 0, 0x5566_7788],
    ]);
  });

  it('leaves the bytes of who writes as they are', () => {
    const { plan, link } = faultBench(new Panel());
    plan.arm('register.stuck', { nth: 1, register: 'rows[0]', value: 0 });
    const bytes = Uint8Array.of(1, 2, 3, 4);
    link.writeBytes(AT.rows, bytes);
    expect([...bytes]).toEqual([1, 2, 3, 4]);
  });

  it('counts accesses to that register alone, in whatever part', () => {
    const { plan, link } = faultBench(new Panel());
    plan.arm('register.stuck', { nth: 2, register: 'wide', value: 0x1122_3344_5566_7788n });
    link.read(AT.status);
    link.read(AT.count);
    link.write(AT.wide + 4, 0);
    expect(link.readWide(AT.wide)).toBe(0x1122_3344_5566_7788n);
    expect(link.read(AT.wide + 4)).toBe(0x1122_3344);
  });

  it('holds for every access that meets it, at any offset and length', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 63 }),
        fc.constantFrom(1, 2, 4, 8),
        fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        fc.array(
          fc.record({
            at: fc.integer({ min: 0, max: 63 }),
            length: fc.integer({ min: 1, max: 8 }),
          }),
          { minLength: 1, maxLength: 12 },
        ),
        (place, width, mask, value, accesses) => {
          fc.pre(place + width <= 64);
          const { plan, link } = faultBench(new Panel());
          plan.arm('register.stuck', {
            every: 1,
            ...{ offset: AT.memory + place, width, mask, value },
          });
          link.read(AT.memory + place, 1);
          const model = new Uint8Array(64);
          const stick = () => {
            for (let n = 0; n < width; n++) {
              const shift = BigInt(8 * n);
              const m = Number((mask >> shift) & 0xffn);
              const v = Number((value >> shift) & 0xffn);
              model[place + n] = ((model[place + n] ?? 0) & ~m) | (v & m);
            }
          };
          stick();
          for (const [n, { at, length }] of accesses.entries()) {
            const bytes = new Uint8Array(Math.min(length, 64 - at)).fill(17 * n + 3);
            link.writeBytes(AT.memory + at, bytes);
            model.set(bytes, at);
            stick();
            expect([...link.readBytes(AT.memory, 64)]).toEqual([...model]);
          }
        },
      ),
    );
  });

  it.each([
    [
      { register: 'no-such' },
      /expected a register of Panel, got 'no-such': it has control, status/,
    ],
    [{ register: 'rows' }, /an element of rows, \[0\] to \[3\]/],
    [{ register: 'rows[4]' }, /an element of rows/],
    [{ register: 'status[0]' }, /no array/],
    [
      { register: 'control.colour' },
      /a field of control, got 'control.colour': it has go, mode, busy/,
    ],
    [{ register: 'memory' }, /up to 8 bytes, got memory/],
    [{}, /needs a register by its name, or by its offset/],
    [{ register: 'status', offset: 4 }, /needs a register by its name, or by its offset/],
    [{ offset: 4094 }, /inside a BAR of the function, got 4 bytes at 0xffe of BAR0/],
    [{ offset: 0, bar: 3 }, /inside a BAR of the function/],
    [{ offset: 0, width: 9 }, /a whole number from 1 to 8 for 'width'/],
  ])('refuses %j', (options, why) => {
    const { plan } = faultBench(new Panel());
    expect(() => plan.arm('register.stuck', { nth: 1, ...options })).toThrow(why);
    expect(() => plan.arm('register.stuck', { nth: 1, register: 'status' })).not.toThrow();
  });
});

describe('device.stall', () => {
  it('takes writes and does nothing, and registers keep their values', () => {
    const device = new Panel();
    const { plan, link } = faultBench(device);
    link.write(AT.rows, 5);
    plan.arm('device.stall', { nth: 1 });
    expect(link.read(AT.rows)).toBe(5);
    link.write(AT.doorbell, 1);
    link.write(AT.rows, 6);
    expect(link.read(AT.rows)).toBe(5);
    expect(device.log).toEqual([]);
    expect(told(plan)).toEqual(['device.stall: stalled before a write of 4 bytes of BAR0 at 0x18']);
  });

  it('ends the DMA and the completion of work that was under way', () => {
    const clock = new ManualClock();
    const device = new Edu({ clock, delayNs: 1000 });
    const { plan, link, memory, interrupts } = faultBench(device);
    interrupts.mode = 'msi';
    device.buffer.fill(7);
    transfer(link, 5);
    plan.arm('device.stall', { nth: 1 });
    link.write(0x04, 1);
    clock.advance(1e9);
    expect(memory.every((byte) => byte === 0)).toBe(true);
    expect(interrupts.messages).toEqual([]);
    expect(link.read(0x98) & 1).toBe(1);
    expect(device.failed).toBeUndefined();
  });

  it('ends a completion alone too, and keeps the status that was', () => {
    const clock = new ManualClock();
    const { plan, link, interrupts } = faultBench(new Edu({ clock, delayNs: 1000 }));
    interrupts.mode = 'msi';
    link.write(0x20, 0x80);
    link.write(0x08, 5);
    plan.arm('device.stall', { nth: 1 });
    link.write(0x04, 1);
    clock.advance(1e9);
    expect([link.read(0x20), link.read(0x08)]).toEqual([0x81, 5]);
    expect(interrupts.messages).toEqual([]);
  });

  it('raises no interrupt, and lowers the one that is up where the device does', () => {
    const device = new Panel();
    const { plan, link, interrupts } = faultBench(device);
    interrupts.mode = 'intx';
    device.ring();
    plan.arm('device.stall', { nth: 1 });
    link.write(AT.doorbell, 1);
    expect(interrupts.level).toBe(true);
    device.quiet();
    device.ring();
    expect(interrupts.level).toBe(false);
    interrupts.mode = 'msi-x';
    device.ring();
    expect(interrupts.messages).toEqual([]);
  });

  it('is over with a reset of the function', () => {
    const device = new Panel();
    const { plan, link, endpoint } = faultBench(device);
    plan.arm('device.stall', { nth: 1 });
    link.write(AT.doorbell, 1);
    endpoint.reset('function-level');
    link.write(AT.doorbell, 2);
    expect(device.log).toEqual(['reset: function-level', 'doorbell 2']);
  });

  it('is over with a reset when it is disarmed, and strikes again where its trigger says so', () => {
    const device = new Panel();
    const { plan, link, endpoint } = faultBench(device);
    const stall = plan.arm('device.stall', { every: 2 });
    for (const value of [1, 2, 3]) link.write(AT.doorbell, value);
    endpoint.reset('function-level');
    // Counted are those that arrive: 1 and 2, then 4 and 5.
    for (const value of [4, 5]) link.write(AT.doorbell, value);
    stall.disarm();
    for (const value of [6, 7]) link.write(AT.doorbell, value);
    expect(device.log).toEqual([
      ...['doorbell 1', 'reset: function-level', 'doorbell 4', 'reset: device'],
      ...['doorbell 6', 'doorbell 7'],
    ]);
    expect(stall.struck).toBe(2);
  });
});

describe('reset.during a register write', () => {
  it('resets the function once the write has arrived', () => {
    const device = new Panel();
    const { plan, link } = faultBench(device);
    link.write(AT.rows, 9);
    plan.arm('reset.during', { nth: 2, of: 'write' });
    link.write(AT.doorbell, 1);
    link.read(AT.status);
    link.write(AT.doorbell, 2);
    expect(device.log).toEqual(['doorbell 1', 'doorbell 2', 'reset: function-level']);
    expect(link.read(AT.rows)).toBe(0);
  });
});

describe('with a plan around it that has nothing to strike', () => {
  it.each([
    ['nothing armed', () => undefined],
    [
      'faults that never come',
      (plan: FaultPlan) => {
        plan.arm('register.all-ones', { rate: 0 });
        plan.arm('device.stall', { rate: 0 });
        plan.arm('register.stuck', { rate: 0, register: 'status' });
        plan.arm('interrupt.lose', { rate: 0 });
        plan.arm('completion.drop', { rate: 0 });
        plan.arm('reset.during', { rate: 0 });
      },
    ],
    [
      'faults that were disarmed',
      (plan: FaultPlan) => {
        plan.arm('register.all-ones', { nth: 1 });
        plan.disarmAll();
      },
    ],
  ])('a function answers every access as it does alone: %s', (_, arm) => {
    const access = fc.record({
      write: fc.boolean(),
      offset: fc.integer({ min: 0, max: 0x90 }),
      width: fc.constantFrom(1, 2, 4, 8),
      value: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    });
    fc.assert(
      fc.property(fc.array(access, { minLength: 1, maxLength: 40 }), (accesses) => {
        const bare = new Panel();
        const faulty = new Panel();
        const plan = new FaultPlan({ seed: 3 });
        const links = [new Bench(bare), new Bench(plan.around(faulty, RID))] as const;
        arm(plan);
        for (const { write, offset, width, value } of accesses) {
          const [one, other] = links.map((link) => {
            if (!write) return link.readWide(offset, width);
            link.write(offset, value, width as 1 | 2 | 4 | 8);
            return undefined;
          });
          expect(other).toBe(one);
        }
        expect(faulty.log).toEqual(bare.log);
        expect(links[1].accesses).toEqual(links[0].accesses);
        expect(plan.struck).toBe(0);
      }),
    );
  });
});

/** Has edu write its buffer's first bytes to memory, and interrupt then. */
function transfer(link: Bench, length: number): void {
  link.write(0x80, 0x40000, 8);
  link.write(0x88, 0x100, 8);
  link.write(0x90, length, 8);
  link.write(0x98, 7, 8);
}
