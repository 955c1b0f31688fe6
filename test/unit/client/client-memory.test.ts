import * as fc from 'fast-check';
import { afterEach, describe, expect, test } from 'vitest';
import { ClientMemory } from '../../../src/client/client-memory.ts';

const GPA = 0x10_0000;
const BYTES = 64 * 1024;

const toEnd: Disposable[] = [];
afterEach(() => {
  for (const one of toEnd.splice(0)) one[Symbol.dispose]();
});

function memory(): ClientMemory {
  const made = ClientMemory.plain(GPA, BYTES);
  toEnd.push(made);
  return made;
}

describe('guest memory of a client', () => {
  test('what is stored anywhere is loaded from there, and nothing else changes', () => {
    const ram = memory();
    const model = new Uint8Array(BYTES);
    fc.assert(
      fc.property(
        fc.nat({ max: BYTES - 1 }),
        fc.uint8Array({ minLength: 1, maxLength: 300 }),
        (offset, bytes) => {
          const fitting = bytes.subarray(0, BYTES - offset);
          ram.write(GPA + offset, fitting);
          model.set(fitting, offset);
          expect(Buffer.compare(ram.read(GPA, BYTES), model)).toBe(0);
        },
      ),
      { numRuns: 50 },
    );
  });

  test('a range that leaves it is refused whole, at both ends and for odd numbers', () => {
    const ram = memory();
    ram.fill(GPA, BYTES, 7);
    for (const [gpa, length] of [
      [GPA - 1, 1],
      [0, 4],
      [GPA + BYTES, 1],
      [GPA + BYTES - 1, 2],
      [GPA, BYTES + 1],
      [Number.NaN, 1],
      [GPA + 0.5, 1],
      [2 ** 63, 1],
    ] as const) {
      expect(() => ram.read(gpa, length)).toThrow(/inside guest memory/);
      expect(() => ram.write(gpa, new Uint8Array(length))).toThrow(RangeError);
    }
    expect(ram.read(GPA, BYTES).every((byte) => byte === 7)).toBe(true);
  });

  test('a buffer is aligned, zeroed also after another one lay there, and ends with free()', () => {
    const ram = memory();
    const first = ram.allocate(Uint8Array.of(1, 2, 3));
    expect([first.gpa % 4096, first.length]).toEqual([0, 3]);
    expect([...first.bytes()]).toEqual([1, 2, 3]);
    first.free();
    first.free();
    expect(() => first.bytes()).toThrow(/freed/);
    const second = ram.allocate(8, { align: 64 });
    expect(second.gpa).toBe(first.gpa);
    expect([...second.bytes()]).toEqual([0, 0, 0, 0, 0, 0, 0, 0]);
  });

  test('a buffer takes and gives little-endian numbers, and no byte outside itself', () => {
    const ram = memory();
    const before = ram.allocate(16, { align: 16 });
    const buffer = ram.allocate(16, { align: 16 });
    const after = ram.allocate(16, { align: 16 });
    buffer.write64(0, 0x0102_0304_0506_0708n);
    buffer.write32(8, 0xdead_beef);
    buffer.write16(12, 0xcafe);
    buffer.write8(14, 0xff);
    expect(Buffer.from(buffer.bytes()).toString('hex')).toBe('0807060504030201efbeaddefecaff00');
    expect(buffer.read64(0)).toBe(0x0102_0304_0506_0708n);
    expect([buffer.read32(8), buffer.read16(12), buffer.read8(14)]).toEqual([
      0xdead_beef, 0xcafe, 0xff,
    ]);
    expect(() => buffer.write64(9, 1)).toThrow(/inside the buffer/);
    expect(() => buffer.write(new Uint8Array(17))).toThrow(/inside the buffer/);
    expect(() => buffer.write8(0, 256)).toThrow(/expected a value from 0 to 2\^8/);
    expect(() => buffer.write32(0, -1)).toThrow(RangeError);
    expect(() => buffer.write64(0, 2 ** 60)).toThrow(RangeError);
    for (const other of [before, after])
      expect(other.bytes().every((byte) => byte === 0)).toBe(true);
  });

  test('where there is no room it says how much there is', () => {
    const ram = memory();
    ram.allocate(BYTES - 4096);
    expect(() => ram.allocate(4097)).toThrow(/expected room for 4097 bytes .* got at most 4096/);
    expect(ram.allocate(4096).gpa).toBe(GPA + BYTES - 4096);
    expect(() => ram.allocate(0)).toThrow(RangeError);
    expect(() => ram.allocate(1, { align: 3 })).toThrow(/power of two/);
  });

  test('sizes that are no pages are refused before anything is made', () => {
    for (const [gpa, bytes] of [
      [0, 0],
      [0, 4095],
      [1, 4096],
      [0, Number.POSITIVE_INFINITY],
      [2 ** 53 - 4096, 8192],
    ] as const) {
      expect(() => ClientMemory.plain(gpa, bytes)).toThrow(/whole pages/);
    }
  });
});
