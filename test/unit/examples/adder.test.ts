import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Adder } from '../../../examples/adder/adder.ts';
import { Bench } from '../pci/bench.ts';

const CONTROL = 0x00;
const SOURCE = 0x08;
const LENGTH = 0x10;
const SUM = 0x14;
const DONE = 2;
const ERROR = 4;

const settled = () => new Promise<void>((resolve) => setImmediate(resolve));

async function add(link: Bench, source: number | bigint, length: number) {
  link.write(SOURCE, source, 8);
  link.write(LENGTH, length);
  link.write(CONTROL, 1);
  await settled();
  return link.read(CONTROL);
}

describe('the adder', () => {
  it('adds the bytes at source, says so, and interrupts', async () => {
    const link = new Bench(new Adder());
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 1024 }), async (bytes) => {
        link.memory.set(bytes, 0x1003);
        link.interrupts.messages.length = 0;
        expect(await add(link, 0x1003, bytes.length)).toBe(DONE);
        let sum = 0;
        for (const byte of bytes) sum += byte;
        expect(link.read(SUM)).toBe(sum);
        expect(link.interrupts.messages).toEqual([0]);
      }),
    );
  });

  it('takes its source in two halves as well', async () => {
    const link = new Bench(new Adder());
    link.memory[0x10] = 5;
    link.write(SOURCE + 4, 1);
    expect(await add(link, 0x10, 1)).toBe(DONE);
    expect(link.read(SUM)).toBe(5);
  });

  it.each([
    ['a source outside memory', 0xffff_ffff_ffff_ffffn, 4],
    ['no length', 0, 0],
    ['more than a DMA takes', 0, 0xffff_ffff],
  ])('sets its error bit for %s, and goes on', async (_, source, length) => {
    const device = new Adder();
    const link = new Bench(device);
    expect(await add(link, source, length)).toBe(ERROR);
    expect(link.interrupts.messages).toEqual([0]);
    expect(device.failed).toBeUndefined();
    expect(await add(link, 0, 1)).toBe(DONE);
  });

  it('is silent about a sum that a reset overtook', async () => {
    const device = new Adder();
    const link = new Bench(device);
    link.write(LENGTH, 4);
    link.write(CONTROL, 1);
    device.reset('function-level');
    await settled();
    expect([link.read(CONTROL), link.read(SUM)]).toEqual([0, 0]);
    expect(link.interrupts.messages).toEqual([]);
  });
});
