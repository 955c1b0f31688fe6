import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  diskBytesMax,
  diskBytesMin,
  diskLayout,
  sfdiskScript,
} from '../../../src/image/disk-layout.ts';
import { ImageError } from '../../../src/image/image-error.ts';

const MiB = 2 ** 20;
/** Primary: protective MBR, header, 32 sectors of entries; backup: entries and header (UEFI 2.10 §5.3). */
const tableSectors = { first: 34, last: 33 };

describe('the layout of a disk', () => {
  it('has three partitions that begin at a MiB, touch neither each other nor the tables', () => {
    const sizes = fc.integer({ min: diskBytesMin / MiB, max: diskBytesMax / MiB });
    fc.assert(
      fc.property(sizes, (mebibytes) => {
        const { sectors, biosBoot, efiSystem, root } = diskLayout(mebibytes * MiB);
        expect(sectors * 512).toBe(mebibytes * MiB);
        let end = tableSectors.first;
        for (const extent of [biosBoot, efiSystem, root]) {
          expect((extent.start * 512) % MiB).toBe(0);
          expect(extent.start).toBeGreaterThanOrEqual(end);
          expect(extent.sectors).toBeGreaterThan(0);
          end = extent.start + extent.sectors;
        }
        expect(end).toBeLessThanOrEqual(sectors - tableSectors.last);
      }),
    );
  });

  it('names partitions by the types that firmware and GRUB look for, and root by its own id', () => {
    const layout = diskLayout(diskBytesMin);
    const lines = sfdiskScript(layout)
      .split('\n')
      .filter((line) => line.startsWith('start='));
    expect(lines).toEqual([
      expect.stringContaining('type=21686148-6449-6E6F-744E-656564454649'), // GRUB manual §3.4
      expect.stringContaining('type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B'), // UEFI 2.10 §5.3.3
      expect.stringContaining(`uuid=${layout.rootId}`),
    ]);
    expect(diskLayout(diskBytesMin).rootId).not.toBe(layout.rootId);
  });

  it.each([
    0,
    diskBytesMin - MiB,
    diskBytesMin + 512,
    diskBytesMax + MiB,
    Number.NaN,
    2 ** 30 + 0.5,
  ])('refuses %d bytes', (bytes) => {
    expect(() => diskLayout(bytes)).toThrow(ImageError);
  });
});
