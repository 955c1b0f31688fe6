import fc from 'fast-check';
import { expect, test } from 'vitest';
import { countOccurrences, PageFinder } from '../../../src/demo/memory-search.ts';
import { sealedLetter } from '../../../src/demo/picture.ts';

test('occurrences are counted wherever they are, and nothing else', () => {
  const needle = Buffer.from('needle');
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 50 }), { maxLength: 20 }), (gaps) => {
      const bytes = Buffer.concat(gaps.flatMap((gap) => [Buffer.alloc(gap, 'n'), needle]));
      expect(countOccurrences(bytes, needle)).toBe(gaps.length);
    }),
  );
  expect(countOccurrences(Buffer.alloc(0), needle)).toBe(0);
});

test('pages are found wherever they lie, also equal ones, and only whole ones', () => {
  const picture = sealedLetter();
  const pages = Math.floor(picture.pixels.length / 4096);
  const order = Array.from({ length: pages }, (_, index) => (index * 37) % pages);
  const finder = new PageFinder(picture.pixels);
  for (const [place, index] of order.entries()) {
    finder.look(place * 8192, new Uint8Array(4096).fill(place));
    finder.look(place * 8192 + 4096, picture.pixels.slice(index * 4096, index * 4096 + 4096));
  }
  const found = finder.found.map((page) => page?.gpa ?? -1);
  expect(new Set(found).size).toBe(pages);
  for (const [index, gpa] of found.entries()) {
    const lies = order[Math.floor(gpa / 8192)] ?? -1;
    const there = picture.pixels.subarray(lies * 4096, lies * 4096 + 4096);
    expect(Buffer.compare(there, picture.pixels.subarray(index * 4096, index * 4096 + 4096))).toBe(
      0,
    );
  }
});

test('the picture has areas, edges and shades, so that a leak would be seen', () => {
  const { pixels, width, height } = sealedLetter();
  expect(pixels).toHaveLength(width * height * 3);
  const colours = new Set<number>();
  for (let at = 0; at < pixels.length; at += 3) {
    colours.add(((pixels[at] ?? 0) << 16) | ((pixels[at + 1] ?? 0) << 8) | (pixels[at + 2] ?? 0));
  }
  expect(colours.size).toBeGreaterThan(500);
});
