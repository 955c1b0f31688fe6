import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { FaultPlan, formatSeed, parseFault, parseSeed } from '../../../src/faults/index.ts';
import { Bench } from '../pci/bench.ts';
import { RID } from './bench.ts';
import { AT, Panel } from './panel.ts';

describe('a fault in words', () => {
  it.each([
    ['interrupt.lose', { nth: 1 }],
    ['interrupt.lose:', { nth: 1 }],
    ['interrupt.lose:times=3', { nth: 1, times: 3 }],
    ['completion.delay:every=2,ms=7.5', { every: 2, ms: 7.5 }],
    ['completion.delay', { nth: 1, ms: 10 }],
    [
      'dma.refuse:rate=0.25,rid=00:04.0,direction=read,reason=slot-empty',
      {
        ...{ rate: 0.25, rid: RID, direction: 'read', reason: 'slot-empty' },
      },
    ],
    ['dma.slot:slot=0x10,nth=3', { nth: 3, slot: 16 }],
    [
      'register.stuck:register=status.busy,value=0xffffffffffffffff',
      {
        ...{ nth: 1, register: 'status.busy', value: 0xffff_ffff_ffff_ffffn },
      },
    ],
    ['dram.flip:gpa=0x1000,bit=7', { nth: 1, gpa: 4096, bit: 7 }],
    ['reset.during:of=write,nth=5', { nth: 5, of: 'write' }],
  ])('%s', (text, options) => {
    const { name, options: got } = parseFault(text);
    expect(name).toBe(text.split(':')[0]);
    expect(got).toEqual(options);
  });

  it.each([
    ['', /expected a fault of the catalogue, got ''/],
    ['interrupt', /got 'interrupt'/],
    ['toString', /got 'toString'/],
    ['interrupt.lose:nth', /expected interrupt.lose:key=value,…, got "nth"/],
    ['interrupt.lose:nth=', /got "nth="/],
    ['interrupt.lose:nth=1,,', /got ""/],
    ['interrupt.lose:nth=1,nth=2', /one 'nth' for interrupt.lose, got two/],
    ['interrupt.lose:nth=one', /a number for 'nth', got 'one'/],
    ['interrupt.lose:nth=1,every=2', /exactly one of rate, nth, every, when, got nth and every/],
    ['interrupt.lose:when=1', /interrupt.lose takes no 'when'/],
    ['interrupt.lose:ms=1', /interrupt.lose takes no 'ms'/],
    ['completion.delay:ms=soon', /milliseconds from 0 to 60000 for 'ms'/],
    ['completion.delay:ms=60001', /milliseconds from 0 to 60000 for 'ms'/],
    ['completion.reorder:after=0', /a whole number from 1 to 64 for 'after'/],
    ['dma.slot', /dma.slot needs 'slot'/],
    ['dma.slot:slot=4096', /from 0 to 4095/],
    ['dma.slot:slot=1e1', /a whole number/],
    ['dma.refuse:reason=mood', /one of unmapped, /],
    ['dma.refuse:rid=nowhere', /a requester ID/],
    ['register.stuck:value=0x10000000000000000', /up to 64 bits/],
  ])('%s is refused with its reason', (text, why) => {
    expect(() => parseFault(text)).toThrow(why);
  });

  it('is armed as it says', () => {
    const plan = new FaultPlan({ seed: 1 });
    const link = new Bench(plan.around(new Panel(), RID));
    const { name, options } = parseFault('register.stuck:register=control.busy,value=0x100,nth=2');
    plan.arm(name, options);
    expect([link.read(AT.control), link.read(AT.control)]).toEqual([0, 0x100]);
  });
});

describe('a seed in words', () => {
  it('is read as it is written, and in decimal', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 2 ** 32 - 1 }), (seed) => {
        expect(parseSeed(formatSeed(seed))).toBe(seed);
        expect(parseSeed(`${seed}`)).toBe(seed);
        expect(formatSeed(seed)).toMatch(/^0x[0-9a-f]{8}$/);
      }),
    );
  });

  it.each(['', '-1', '4294967296', '0x100000000', '1.5', '1e3', 'seven'])('%j is none', (text) => {
    expect(() => parseSeed(text)).toThrow(/a seed of 32 bits/);
  });
});
