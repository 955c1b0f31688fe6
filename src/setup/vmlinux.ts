/**
 * The ELF kernel inside a bzImage. A bzImage carries it compressed, behind a stub that unpacks it
 * in the guest; taken out beforehand, it boots without that work through its PVH entry.
 * Documentation/arch/x86/boot.rst of Linux: setup_sects 0x1f1, header magic 0x202, version 0x206,
 * payload_offset 0x248, payload_length 0x24c (protocol 2.08 and later).
 */
import { promisify } from 'node:util';
import { gunzip, zstdDecompress } from 'node:zlib';
import { SetupError } from './setup-error.ts';

const vmlinuxBytesMax = 256 * 2 ** 20;
const PT_NOTE = 4;
const XEN_ELFNOTE_PHYS32_ENTRY = 18;

type Format = 'zstd' | 'gzip' | 'xz';

const magics: readonly (readonly [Format, string])[] = [
  ['zstd', '28b52ffd'],
  ['gzip', '1f8b08'],
  ['xz', 'fd377a585a00'],
];

/**
 * @param unxz decompresses an xz stream; only called for a kernel that is packed so.
 * @throws SetupError where the image is not a bzImage, is packed otherwise, or holds no PVH kernel
 */
export async function extractVmlinux(
  bzImage: Buffer,
  unxz: (packed: Buffer) => Promise<Buffer>,
): Promise<Buffer> {
  const { format, packed, length } = payloadOf(bzImage);
  const limits = { maxOutputLength: vmlinuxBytesMax };
  const elf =
    format === 'zstd'
      ? await promisify(zstdDecompress)(packed, limits)
      : format === 'gzip'
        ? await promisify(gunzip)(packed, limits)
        : await unxz(packed);
  if (elf.length !== length) throw unlike(`${length} bytes of kernel`, `${elf.length}`);
  if (!hasPvhEntry(elf)) throw unlike('an ELF64 x86 kernel with a PVH entry note', 'none');
  return elf;
}

function payloadOf(image: Buffer): { format: Format; packed: Buffer; length: number } {
  if (image.length < 0x250 || image.toString('latin1', 0x202, 0x206) !== 'HdrS') {
    throw unlike('a bzImage (HdrS at 0x202)', 'another file');
  }
  if (image.readUInt16LE(0x206) < 0x208)
    throw unlike('boot protocol 2.08 or later', 'an older one');
  const setupSectors = image[0x1f1] || 4;
  const start = (setupSectors + 1) * 512 + image.readUInt32LE(0x248);
  const end = start + image.readUInt32LE(0x24c);
  if (end > image.length || end - start < 8) {
    throw unlike(`a payload of at least 8 bytes within ${image.length}`, `${start} to ${end}`);
  }
  const payload = image.subarray(start, end);
  const head = payload.toString('hex', 0, 6);
  const format = magics.find(([, magic]) => head.startsWith(magic))?.[0];
  if (!format) throw unlike('a payload packed with zstd, gzip or xz', `one that begins ${head}`);
  // The kernel's build appends the unpacked size to every format; gzip has it as its own trailer.
  const packed = format === 'gzip' ? payload : payload.subarray(0, -4);
  return { format, packed, length: payload.readUInt32LE(payload.length - 4) };
}

/** Looks for the note that tells QEMU where to enter the kernel in 32-bit mode without paging. */
function hasPvhEntry(elf: Buffer): boolean {
  const elf64LittleEndian = '7f454c460201';
  if (elf.length < 64 || elf.toString('hex', 0, 6) !== elf64LittleEndian) return false;
  const table = Number(elf.readBigUInt64LE(32));
  const entrySize = elf.readUInt16LE(54);
  const count = elf.readUInt16LE(56);
  if (entrySize < 56 || table + count * entrySize > elf.length) return false;
  for (let index = 0; index < count; index++) {
    const at = table + index * entrySize;
    if (elf.readUInt32LE(at) !== PT_NOTE) continue;
    const offset = Number(elf.readBigUInt64LE(at + 8));
    const size = Number(elf.readBigUInt64LE(at + 32));
    if (offset + size > elf.length) return false;
    if (noteTypes(elf.subarray(offset, offset + size)).includes(XEN_ELFNOTE_PHYS32_ENTRY))
      return true;
  }
  return false;
}

function noteTypes(notes: Buffer): number[] {
  const types: number[] = [];
  const aligned = (length: number) => (length + 3) & ~3;
  for (let at = 0; at + 12 <= notes.length; ) {
    const nameLength = notes.readUInt32LE(at);
    const valueLength = notes.readUInt32LE(at + 4);
    if (notes.toString('latin1', at + 12, at + 16) === 'Xen\0')
      types.push(notes.readUInt32LE(at + 8));
    at += 12 + aligned(nameLength) + aligned(valueLength);
  }
  return types;
}

function unlike(expected: string, got: string): SetupError {
  return new SetupError({
    expected: `the kernel image to hold ${expected}`,
    got,
    remedy: 'The package is not one that sealbus knows; report its version.',
  });
}
