import { gzipSync, zstdCompressSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { SetupError } from '../../../src/setup/setup-error.ts';
import { extractVmlinux } from '../../../src/setup/vmlinux.ts';

/** ELF64 of one PT_NOTE that holds one note. */
function kernel(noteName = 'Xen\0', noteType = 18): Buffer {
  const elf = Buffer.alloc(64 + 56 + 24);
  elf.write('\x7fELF\x02\x01\x01', 'latin1');
  elf.writeBigUInt64LE(64n, 32); // e_phoff
  elf.writeUInt16LE(56, 54); // e_phentsize
  elf.writeUInt16LE(1, 56); // e_phnum
  elf.writeUInt32LE(4, 64); // PT_NOTE
  elf.writeBigUInt64LE(120n, 64 + 8);
  elf.writeBigUInt64LE(24n, 64 + 32);
  elf.writeUInt32LE(4, 120);
  elf.writeUInt32LE(8, 124);
  elf.writeUInt32LE(noteType, 128);
  elf.write(noteName, 132, 'latin1');
  return elf;
}

/** A boot sector, one set-up sector, 8 bytes of stub, the payload, and what follows it. */
function bzImage(packed: Buffer, unpackedLength: number | undefined): Buffer {
  const trailer = Buffer.alloc(unpackedLength === undefined ? 0 : 4);
  if (unpackedLength !== undefined) trailer.writeUInt32LE(unpackedLength);
  const head = Buffer.alloc(1024 + 8);
  head[0x1f1] = 1;
  head.write('HdrS', 0x202);
  head.writeUInt16LE(0x20f, 0x206);
  head.writeUInt32LE(8, 0x248);
  head.writeUInt32LE(packed.length + trailer.length, 0x24c);
  return Buffer.concat([head, packed, trailer, Buffer.from('what follows')]);
}

const noXz = () => expect.unreachable();

test('zstd with the length appended, gzip with its own', async () => {
  const elf = kernel();
  expect(await extractVmlinux(bzImage(zstdCompressSync(elf), elf.length), noXz)).toEqual(elf);
  expect(await extractVmlinux(bzImage(gzipSync(elf), undefined), noXz)).toEqual(elf);
});

test('xz goes to the program given, without the length', async () => {
  const elf = kernel();
  const packed = Buffer.from('fd377a585a00aabbcc', 'hex');
  const unxz = async (stream: Buffer) => {
    expect(stream).toEqual(packed);
    return elf;
  };
  expect(await extractVmlinux(bzImage(packed, elf.length), unxz)).toEqual(elf);
});

const packed = zstdCompressSync(kernel());
const cutHeader = bzImage(packed, kernel().length).subarray(0, 0x240);
const wildOffset = bzImage(packed, kernel().length);
wildOffset.writeUInt32LE(0xfffffff0, 0x248);

test.each([
  ['no bzImage', Buffer.alloc(4096)],
  ['a header cut short', cutHeader],
  ['a payload outside the file', wildOffset],
  ['an unknown packing', bzImage(Buffer.alloc(64, 7), 64)],
  ['another length than announced', bzImage(packed, kernel().length + 1)],
  ['no PVH note', bzImage(zstdCompressSync(kernel('Xen\0', 17)), kernel().length)],
  ['a note of another owner', bzImage(zstdCompressSync(kernel('GNU\0')), kernel().length)],
])('%s is refused', async (_, image) => {
  await expect(extractVmlinux(image, noXz)).rejects.toThrow(SetupError);
});
