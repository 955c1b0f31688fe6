import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { EvpXts, type TweakPath } from '../../../src/crypto/evp-xts.ts';
import { openXts } from '../../../src/crypto/open-xts.ts';
import { WeakKeyError, type XtsEngineName } from '../../../src/crypto/xts-cipher.ts';
import { nativeKey } from './native-key.ts';

interface Vector {
  readonly vector: number;
  readonly keyBits: number;
  readonly key1: string;
  readonly key2: string;
  readonly dataUnitSequenceNumber: number;
  readonly plaintext: string;
  readonly ciphertext: string;
}

const path = join(import.meta.dirname, '../../vectors/xts/ieee-1619-2007.json');
const { vectors } = JSON.parse(readFileSync(path, 'utf8')) as { vectors: Vector[] };
const usable = vectors.filter(({ key1, key2 }) => key1 !== key2);

describe('IEEE Std 1619-2007 Annex B', () => {
  test('both key sizes are there, and one vector with equal halves', () => {
    expect(usable.filter(({ keyBits }) => keyBits === 128).length).toBeGreaterThanOrEqual(8);
    expect(usable.filter(({ keyBits }) => keyBits === 256).length).toBe(5);
    expect(vectors.length - usable.length).toBe(1);
  });

  for (const name of [
    'evp by page-loop',
    'evp by live-iv',
    'evp by init',
    'node',
    'noble',
  ] as const) {
    test.each(usable)(`${name}: vector $vector, AES-$keyBits`, (vector) => {
      const key = nativeKey(Buffer.from(vector.key1 + vector.key2, 'hex'));
      const plaintext = Buffer.from(vector.plaintext, 'hex');
      const ciphertext = Buffer.from(vector.ciphertext, 'hex');
      const unitBytes = plaintext.length;
      using cipher = name.startsWith('evp')
        ? new EvpXts(key, { unitBytes, tweakPath: name.slice(7) as TweakPath })
        : openXts(key, name as XtsEngineName, unitBytes);
      const out = Buffer.alloc(unitBytes);

      cipher.encrypt(plaintext, out, vector.dataUnitSequenceNumber, 0, unitBytes);
      expect(out.toString('hex')).toBe(vector.ciphertext);
      cipher.decrypt(ciphertext, out, vector.dataUnitSequenceNumber, 0, unitBytes);
      expect(out.toString('hex')).toBe(vector.plaintext);

      // Random access: each block by itself, and from each block to the end.
      for (let at = 0; at < unitBytes; at += 16) {
        out.fill(0);
        cipher.decrypt(ciphertext, out, vector.dataUnitSequenceNumber, at, 16);
        expect(out.subarray(0, 16)).toEqual(plaintext.subarray(at, at + 16));
        cipher.decrypt(ciphertext, out, vector.dataUnitSequenceNumber, at, unitBytes - at);
        expect(out.subarray(0, unitBytes - at)).toEqual(plaintext.subarray(at));
      }
    });
  }

  test.each(['evp', 'node', 'noble'] as const)('%s refuses vector 1: equal halves', (engine) => {
    const weak = vectors.find(({ vector }) => vector === 1);
    const key = nativeKey(Buffer.from(`${weak?.key1}${weak?.key2}`, 'hex'));
    expect(() => openXts(key, engine)).toThrow(WeakKeyError);
  });
});
