/** The EFI system partition: FAT32 with the one file that UEFI starts from a disk by itself. */
import { type FileHandle, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from '../setup/command.ts';
import { type Extent, sectorBytes } from './disk-layout.ts';

/** UEFI 2.10 §3.5.1.1, for x86-64. */
const bootFile = '::/EFI/BOOT/BOOTX64.EFI';
const copyBytes = 2 ** 20;

/** Makes it in a file of its own under `place`, and copies it over. @throws CommandError */
export async function makeEfiSystem(
  disk: FileHandle,
  { start, sectors }: Extent,
  efiImage: string,
  place: string,
  signal: AbortSignal,
): Promise<void> {
  const path = join(place, 'efi-system');
  const options = { timeout_ms: 60_000, signal };
  const kibibytes = String((sectors * sectorBytes) / 1024);
  const hidden = ['-h', String(start)];
  const size = ['-F', '32', '-s', '1', '-S', String(sectorBytes)];
  await runCommand('mkfs.fat', [...size, ...hidden, '-n', 'EFI', '-C', path, kibibytes], options);
  await runCommand('mmd', ['-i', path, '::/EFI', '::/EFI/BOOT'], options);
  await runCommand('mcopy', ['-i', path, efiImage, bootFile], options);
  const bytes = await readFile(path);
  const zeros = Buffer.alloc(copyBytes);
  for (let at = 0; at < bytes.length; at += copyBytes) {
    const piece = bytes.subarray(at, at + copyBytes);
    if (piece.equals(zeros.subarray(0, piece.length))) continue; // the disk stays sparse
    await disk.write(piece, 0, piece.length, start * sectorBytes + at);
  }
}
