import { mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { contentKey, made, madeFrom } from '../../../src/vm/guest-build.ts';

let cache: string;
beforeEach(() => {
  cache = mkdtempSync(join(tmpdir(), 'sealbus-build-'));
});
afterEach(() => rmSync(cache, { recursive: true }));

const key = (n: number) => n.toString(16).padStart(16, '0');

describe('the cache of what is built for guests', () => {
  it('makes a thing once for each key', async () => {
    let times = 0;
    const bytes = () => {
      times += 1;
      return Buffer.from(`${times}`);
    };
    const first = await madeFrom(cache, 'image', key(1), bytes);
    expect(await madeFrom(cache, 'image', key(1), bytes)).toBe(first);
    expect(readFileSync(first, 'utf8')).toBe('1');
    expect(await madeFrom(cache, 'image', key(2), bytes)).not.toBe(first);
    expect(times).toBe(2);
  });

  it('has one whole file where several make it at once', async () => {
    const all = await Promise.all(
      Array.from({ length: 5 }, () =>
        madeFrom(cache, 'image', key(1), () => Buffer.alloc(1000, 7)),
      ),
    );
    expect(new Set(all).size).toBe(1);
    expect(readdirSync(cache)).toEqual([`image-${key(1)}`]);
    expect(readFileSync(all[0]!)).toEqual(Buffer.alloc(1000, 7));
  });

  it('leaves nothing where making fails', async () => {
    const failing = made(cache, 'module', key(1), '.ko', async (temporary) => {
      writeFileSync(join(temporary, 'half'), '');
      throw new Error('no compiler');
    });
    await expect(failing).rejects.toThrow('no compiler');
    expect(readdirSync(cache)).toEqual([]);
  });

  it('keeps the eight newest of a name, and all of others', async () => {
    await madeFrom(cache, 'other', key(99), () => Buffer.alloc(1));
    for (let i = 1; i <= 12; i++) {
      const file = await madeFrom(cache, 'image', key(i), () => Buffer.alloc(1));
      utimesSync(file, 1_000_000 + i, 1_000_000 + i);
    }
    const left = readdirSync(cache).filter((name) => name.startsWith('image'));
    expect(left).toHaveLength(8);
    expect(left).toContain(`image-${key(12)}`);
    expect(readdirSync(cache)).toContain(`other-${key(99)}`);
  });
});

describe('the key of sources', () => {
  it('changes with a byte, a name and a flag, and with nothing else', () => {
    const file = (name: string, text: string) => {
      writeFileSync(join(cache, name), text);
      return join(cache, name);
    };
    const a = contentKey([file('a.c', 'int a;')], ['-O2']);
    expect(contentKey([file('a.c', 'int a;')], ['-O2'])).toBe(a);
    expect(contentKey([file('a.c', 'int b;')], ['-O2'])).not.toBe(a);
    expect(contentKey([file('b.c', 'int a;')], ['-O2'])).not.toBe(a);
    expect(contentKey([file('a.c', 'int a;')], ['-O3'])).not.toBe(a);
    expect(a).toMatch(/^[0-9a-f]{16}$/);
  });
});
