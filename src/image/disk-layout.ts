/** How a disk that both firmwares boot is cut up: a GUID partition table (UEFI 2.10 §5.3). */
import { randomUUID } from 'node:crypto';
import { ImageError } from './image-error.ts';

export const sectorBytes = 512;

/** A run of sectors. */
export interface Extent {
  readonly start: number;
  readonly sectors: number;
}

export interface DiskLayout {
  readonly sectors: number;
  readonly diskId: string;
  /** GRUB's core image lies here for SeaBIOS, outside any file system. */
  readonly biosBoot: Extent;
  /** The EFI system partition: FAT32. */
  readonly efiSystem: Extent;
  readonly root: Extent;
  /** PARTUUID of the root partition. */
  readonly rootId: string;
}

/** Partitions begin and end at a MiB. */
const alignment = 2048;
/** FAT32 has at least 65,525 clusters (UEFI 2.10 §13.3.1). */
const efiSystemSectors = 64 * alignment;
/** Less would not hold the system. */
export const diskBytesMin = 2 ** 30;
export const diskBytesMax = 2 ** 41;

/** @throws ImageError where the size is no whole number of MiB within the bounds */
export function diskLayout(bytes: number): DiskLayout {
  if (bytes % 2 ** 20 !== 0 || bytes < diskBytesMin || bytes > diskBytesMax) {
    throw new ImageError(`expected a disk of whole MiB from 1 GiB to 2 TiB, got ${bytes} bytes`);
  }
  const sectors = bytes / sectorBytes;
  const biosBoot = { start: alignment, sectors: alignment };
  const efiSystem = { start: 2 * alignment, sectors: efiSystemSectors };
  const start = efiSystem.start + efiSystem.sectors;
  // The last MiB holds the second copy of the table.
  const root = { start, sectors: sectors - start - alignment };
  return { sectors, diskId: randomUUID(), biosBoot, efiSystem, root, rootId: randomUUID() };
}

const typeId = {
  biosBoot: '21686148-6449-6E6F-744E-656564454649',
  efiSystem: 'C12A7328-F81F-11D2-BA4B-00A0C93EC93B',
  // Discoverable Partitions Specification: root of x86-64
  root: '4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709',
} as const;

/** What sfdisk(8) reads. */
export function sfdiskScript(layout: DiskLayout): string {
  const partition = ({ start, sectors }: Extent, fields: string) =>
    `start=${start}, size=${sectors}, ${fields}`;
  return [
    'label: gpt',
    `label-id: ${layout.diskId}`,
    'unit: sectors',
    '',
    partition(layout.biosBoot, `type=${typeId.biosBoot}, name="BIOS boot"`),
    partition(layout.efiSystem, `type=${typeId.efiSystem}, name="EFI system"`),
    partition(layout.root, `type=${typeId.root}, uuid=${layout.rootId}, name="Debian root"`),
    '',
  ].join('\n');
}
