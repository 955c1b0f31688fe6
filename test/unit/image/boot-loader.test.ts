import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { biosBootPieces, grubConfiguration } from '../../../src/image/boot-loader.ts';
import { ImageError } from '../../../src/image/image-error.ts';

const place = mkdtempSync(join(tmpdir(), 'sealbus-grub-'));
afterAll(() => rmSync(place, { recursive: true }));

/** Images shaped as GRUB's: what is not to be changed is 0xa5. */
function images(wishes: { sectors?: number; signature?: number; length?: number } = {}) {
  const { sectors = 300, signature = 0xaa55 } = wishes;
  const { length = sectors - 1 } = wishes;
  const boot = Buffer.alloc(512, 0xa5);
  boot.writeUInt16LE(signature, 510);
  const core = Buffer.alloc(sectors * 512 - 100, 0xa5);
  core.writeUInt16LE(length, 0x1f4 + 8);
  const paths = { bootImage: join(place, 'boot.img'), coreImage: join(place, 'core.img') };
  writeFileSync(paths.bootImage, boot);
  writeFileSync(paths.coreImage, core);
  return { ...paths, boot, core };
}

const layout = { biosBoot: { start: 0x1234, sectors: 2048 } };

describe('what SeaBIOS starts', () => {
  it('says where the core image lies, and where its second sector, and changes nothing else', () => {
    const { boot, core, ...paths } = images();
    const [first, second] = biosBootPieces(layout, paths);
    // The offsets are those of GRUB's include/grub/i386/pc/boot.h.
    expect(first?.offset).toBe(0);
    expect(first?.bytes.length).toBe(0x1b8); // the disk's signature and the table of the MBR follow
    boot.writeBigUInt64LE(0x1234n, 0x5c);
    boot.writeUInt8(0xff, 0x64);
    boot.set([0x90, 0x90], 0x66);
    expect(first?.bytes.equals(boot.subarray(0, 0x1b8))).toBe(true);
    expect(second?.offset).toBe(0x1234 * 512);
    core.writeBigUInt64LE(0x1235n, 0x200 - 12);
    expect(second?.bytes.equals(core)).toBe(true);
  });

  it.each([
    ['no boot sector', { signature: 0 }, /boot sector/],
    ['a core image over its partition', { sectors: 2049 }, /fit its partition/],
    ['a core image with another length in it', { length: 7 }, /core image/],
  ])('refuses %s', (_what, wishes, words) => {
    const paths = images(wishes);
    expect(() => biosBootPieces(layout, paths)).toThrow(ImageError);
    expect(() => biosBootPieces(layout, paths)).toThrow(words);
  });
});

it('the kernel gets its root by PARTUUID, waits for it, and speaks on ttyS0', () => {
  const text = grubConfiguration({ rootId: '01234567-89ab-cdef-0123-456789abcdef' });
  const [line = ''] = /^ *linux .*$/m.exec(text) ?? [];
  const words = line.trim().split(' ');
  expect(words).toContain('root=PARTUUID=01234567-89ab-cdef-0123-456789abcdef');
  expect(words).toContain('rootwait');
  expect(words).toContain('console=ttyS0');
});
