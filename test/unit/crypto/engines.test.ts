import { readFileSync } from 'node:fs';
import { inspect } from 'node:util';
import fc from 'fast-check';
import { afterAll, describe, expect, test } from 'vitest';
import { EvpXts } from '../../../src/crypto/evp-xts.ts';
import { libcrypto } from '../../../src/crypto/libcrypto.ts';
import { openXts } from '../../../src/crypto/open-xts.ts';
import { type XtsCipher, XtsError } from '../../../src/crypto/xts-cipher.ts';
import { viewOfAddress } from '../../../src/ffi/libc.ts';
import { countingKey } from './native-key.ts';

const PAGE = 4096;
const PAGES = 3;
const SPAN = PAGE * PAGES;
const UNIT_MAX = 2 ** 40;

const key = countingKey(1);
const oracle = openXts(key, 'noble');
const engines = {
  'evp by page-loop': new EvpXts(key),
  'evp by live-iv': new EvpXts(key, { tweakPath: 'live-iv' }),
  'evp by init': new EvpXts(key, { tweakPath: 'init' }),
  node: openXts(key, 'node'),
  noble: oracle,
} satisfies Record<string, XtsCipher>;
const plain = Uint8Array.from({ length: SPAN }, (_, i) => (i * 131) >>> 3);

afterAll(() => {
  for (const cipher of Object.values(engines)) cipher.close();
});

const unit = fc.integer({ min: 0, max: UNIT_MAX });
/** Any byte range of the span; drawn so that ends inside blocks, at blocks and at pages are common. */
const range = fc
  .tuple(
    fc.oneof(
      fc.integer({ min: 0, max: SPAN }),
      fc.integer({ min: 0, max: SPAN / 16 }).map((b) => b * 16),
    ),
    fc.oneof(fc.integer({ min: 0, max: SPAN }), fc.constantFrom(0, PAGE, 2 * PAGE, SPAN)),
  )
  .map(([a, b]) => ({ offset: Math.min(a, b), length: Math.abs(a - b) }));

function sealed(first: number): Uint8Array {
  const out = new Uint8Array(SPAN);
  engines['evp by init'].encrypt(plain, out, first, 0, SPAN);
  return out;
}

test('the fastest way of setting the tweak is proved on this libcrypto', () => {
  expect(engines['evp by page-loop'].tweakPath).toBe('page-loop');
});

test('whole pages: every engine writes what the oracle writes', () => {
  fc.assert(
    fc.property(unit, (first) => {
      const want = new Uint8Array(SPAN);
      oracle.encrypt(plain, want, first, 0, SPAN);
      for (const cipher of Object.values(engines)) {
        const got = new Uint8Array(SPAN);
        cipher.encrypt(plain, got, first, 0, SPAN);
        expect(Buffer.compare(got, want)).toBe(0);
      }
    }),
    { numRuns: 10, examples: [[0], [UNIT_MAX], [2 ** 32 - 2]] },
  );
});

describe.each(Object.entries(engines))('%s', (name, cipher) => {
  const numRuns = name.startsWith('evp') ? 400 : 40;

  test('decrypts any range to what lies there, and writes nothing beside it', () => {
    const numbers = [0, 5, UNIT_MAX - PAGES];
    const memory = numbers.map(sealed);
    fc.assert(
      fc.property(range, fc.nat(2), fc.nat(20), ({ offset, length }, which, lead) => {
        const into = new Uint8Array(lead + length + 20).fill(0xa5);
        cipher.decrypt(
          memory[which]!,
          into.subarray(lead, lead + length),
          numbers[which]!,
          offset,
          length,
        );
        expect(
          Buffer.compare(
            into.subarray(lead, lead + length),
            plain.subarray(offset, offset + length),
          ),
        ).toBe(0);
        expect(into.subarray(0, lead).every((byte) => byte === 0xa5)).toBe(true);
        expect(into.subarray(lead + length).every((byte) => byte === 0xa5)).toBe(true);
      }),
      {
        numRuns,
        examples: [
          [{ offset: 4000, length: 64 }, 1, 0],
          [{ offset: 4095, length: 2 }, 1, 0],
        ],
      },
    );
  });

  test('a write of any range changes exactly its bytes, under the plaintext and in memory blocks', () => {
    const before = sealed(9);
    fc.assert(
      fc.property(range, fc.nat(255), ({ offset, length }, salt) => {
        const bytes = Uint8Array.from({ length }, (_, i) => (i * 7 + salt) & 0xff);
        const memory = Uint8Array.from(before);
        cipher.encrypt(bytes, memory, 9, offset, length);
        const want = Uint8Array.from(plain);
        want.set(bytes, offset);
        const got = new Uint8Array(SPAN);
        engines['evp by init'].decrypt(memory, got, 9, 0, SPAN);
        expect(Buffer.compare(got, want)).toBe(0);
        const first = offset - (offset % 16);
        const end = length === 0 ? first : Math.ceil((offset + length) / 16) * 16;
        expect(Buffer.compare(memory.subarray(0, first), before.subarray(0, first))).toBe(0);
        expect(Buffer.compare(memory.subarray(end), before.subarray(end))).toBe(0);
      }),
      { numRuns },
    );
  });

  test('in place, whole blocks, both ways', () => {
    fc.assert(
      fc.property(fc.nat(SPAN / 16 - 1), fc.nat(SPAN / 16), (firstBlock, blocks) => {
        const offset = firstBlock * 16;
        const length = Math.min(blocks * 16, SPAN - offset);
        const memory = sealed(3);
        const part = memory.subarray(offset, offset + length);
        cipher.decrypt(memory, part, 3, offset, length);
        expect(Buffer.compare(part, plain.subarray(offset, offset + length))).toBe(0);
        cipher.encrypt(part, memory, 3, offset, length);
        expect(Buffer.compare(memory, sealed(3))).toBe(0);
      }),
      { numRuns: 25 },
    );
  });

  test('refuses to encrypt parts of blocks in place', () => {
    const memory = sealed(3);
    expect(() => cipher.encrypt(memory.subarray(5, 25), memory, 3, 5, 20)).toThrow(
      /whole 16-byte blocks/,
    );
    expect(Buffer.compare(memory, sealed(3))).toBe(0);
  });

  test('one flipped bit of ciphertext garbles its 16-byte block and no other', () => {
    const memory = sealed(1);
    fc.assert(
      fc.property(fc.nat(SPAN * 8 - 1), (bit) => {
        const at = bit >>> 3;
        memory[at]! ^= 1 << (bit & 7);
        const got = new Uint8Array(SPAN);
        cipher.decrypt(memory, got, 1, 0, SPAN);
        memory[at]! ^= 1 << (bit & 7);
        const block = at - (at % 16);
        expect(Buffer.compare(got.subarray(0, block), plain.subarray(0, block))).toBe(0);
        expect(
          Buffer.compare(got.subarray(block, block + 16), plain.subarray(block, block + 16)),
        ).not.toBe(0);
        expect(Buffer.compare(got.subarray(block + 16), plain.subarray(block + 16))).toBe(0);
      }),
      { numRuns: 15 },
    );
  });

  test('another key, or another page number, gives noise', () => {
    using other = openXts(countingKey(2), cipher.engine);
    const memory = sealed(1);
    const got = new Uint8Array(SPAN);
    const equalBytes = () => got.reduce((sum, byte, i) => sum + (byte === plain[i] ? 1 : 0), 0);
    other.decrypt(memory, got, 1, 0, SPAN);
    expect(equalBytes()).toBeLessThan(SPAN / 64);
    cipher.decrypt(memory, got, 2, 0, SPAN);
    expect(equalBytes()).toBeLessThan(SPAN / 64);
  });

  test('native addresses and arrays are the same to it', () => {
    const address = libcrypto().zalloc(2 * SPAN);
    const view = viewOfAddress(address, 2 * SPAN);
    view.set(sealed(8));
    cipher.decrypt(address, address + SPAN, 8, 100, 9000);
    expect(Buffer.compare(view.subarray(SPAN, SPAN + 9000), plain.subarray(100, 9100))).toBe(0);
    cipher.encrypt(plain, address, 8, 0, SPAN);
    expect(Buffer.compare(view.subarray(0, SPAN), sealed(8))).toBe(0);
    libcrypto().clearFree(address, 2 * SPAN);
  });

  test('names what is wrong with an argument, and touches nothing', () => {
    const memory = sealed(1);
    const into = new Uint8Array(64).fill(1);
    expect(() => cipher.decrypt(memory, into, -1, 0, 16)).toThrow(/data-unit number .* got -1/);
    expect(() => cipher.decrypt(memory, into, 2 ** 53, 0, 16)).toThrow(RangeError);
    expect(() => cipher.decrypt(memory, into, 0, 0.5, 16)).toThrow(/offset .* got 0.5/);
    expect(() => cipher.decrypt(memory, into, 0, 0, Number.NaN)).toThrow(/length .* got NaN/);
    expect(() => cipher.decrypt(memory, into, 0, 0, 65)).toThrow(
      /destination to have 65 bytes, got 64/,
    );
    expect(() => cipher.decrypt(memory.subarray(0, 20), into, 0, 16, 5)).toThrow(
      /source to have 32 bytes, got 20/,
    );
    expect(() => cipher.encrypt(into, memory.subarray(0, 40), 0, 16, 32)).toThrow(
      /destination to have 48 bytes/,
    );
    expect(() => cipher.decrypt(0, into, 0, 0, 16)).toThrow(/native address, got 0/);
    const gone = new Uint8Array(64);
    structuredClone(gone, { transfer: [gone.buffer] });
    expect(() => cipher.decrypt(memory, gone, 0, 0, 16)).toThrow(/to have 16 bytes, got 0/);
    expect(into.every((byte) => byte === 1)).toBe(true);
  });
});

test.each(['evp', 'node', 'noble'] as const)('%s: a closed cipher is of no use', (engine) => {
  const cipher = openXts(countingKey(3), engine);
  cipher.close();
  cipher.close();
  const into = new Uint8Array(16);
  expect(cipher.closed).toBe(true);
  expect(() => cipher.decrypt(new Uint8Array(16), into, 0, 0, 16)).toThrow(XtsError);
  expect(() => cipher.encrypt(new Uint8Array(16), into, 0, 0, 16)).toThrow(/key was wiped/);
});

test.each(['evp', 'node', 'noble'] as const)('%s: printing a cipher shows no key', (engine) => {
  using cipher = openXts(countingKey(4), engine);
  const shown =
    inspect(cipher, { showHidden: true, depth: 9 }) + JSON.stringify(cipher) + String(cipher);
  expect(shown).toContain(engine);
  expect(shown).not.toMatch(/\d+,\s*\d+,\s*\d+|Uint8Array|Uint32Array/);
});

test.each(['evp', 'node', 'noble'] as const)('%s: AES-128 round trip of any range', (engine) => {
  using cipher = openXts(countingKey(5, 32), engine);
  using reference = openXts(countingKey(5, 32), 'noble');
  const memory = new Uint8Array(SPAN);
  reference.encrypt(plain, memory, 6, 0, SPAN);
  fc.assert(
    fc.property(range, ({ offset, length }) => {
      const got = new Uint8Array(length);
      cipher.decrypt(memory, got, 6, offset, length);
      expect(Buffer.compare(got, plain.subarray(offset, offset + length))).toBe(0);
    }),
    { numRuns: 25 },
  );
});

test('the key schedules in the heap of libcrypto are locked and not dumped', () => {
  const lib = libcrypto();
  const bytes = 48 * 4096;
  const memory = Math.ceil(lib.zalloc(bytes + 4096) / 4096) * 4096;
  expect(flagsAt(memory + 2 * 4096)).not.toMatch(/ (lo|dd)\b/);
  expect(lib.lock(memory + 2 * 4096 + 100, 4096)).toBe(true);
  for (const page of [2, 3]) expect(flagsAt(memory + page * 4096)).toMatch(/ lo .*dd\b/);
  using cipher = new EvpXts(countingKey(6));
  expect(cipher.locked).toBe(true);
});

/** The VmFlags of the mapping that holds an address, proc_pid_smaps(5). */
function flagsAt(address: number): string {
  let inside = false;
  for (const line of readFileSync('/proc/self/smaps', 'utf8').split('\n')) {
    const match = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line);
    if (match) {
      inside =
        Number.parseInt(match[1]!, 16) <= address && address < Number.parseInt(match[2]!, 16);
    }
    if (inside && line.startsWith('VmFlags:')) return line;
  }
  throw new Error(`expected a mapping at 0x${address.toString(16)}, got none`);
}
