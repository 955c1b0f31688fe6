/** GRUB on a disk without grub-install, which wants a block device. */
import { readFileSync } from 'node:fs';
import { type DiskLayout, sectorBytes } from './disk-layout.ts';
import { ImageError } from './image-error.ts';

/** A piece of the disk that the boot loader needs, and where it goes. */
export interface DiskPiece {
  readonly offset: number;
  readonly bytes: Buffer;
}

/** GRUB's boot.S: where the first sector of the core image is named, 64 bits. */
const kernelSectorOffset = 0x5c;
/** boot.S: the drive to load from; 0xff is the one that the BIOS names in DL. */
const bootDriveOffset = 0x64;
/** boot.S: a jump past a workaround for floppies, which two NOPs take out. */
const driveCheckOffset = 0x66;
/** Code ends here; then come the disk's signature and the protective MBR's table. */
const bootCodeBytes = 0x1b8;
/** diskboot.S: the first entry of the block list: u64 first sector, u16 sectors, u16 segment. */
const blockListOffset = 0x1f4;

/**
 * What SeaBIOS starts: code in sector 0, which loads the core image's first sector, which loads the
 * rest by its block list. The table in sector 0 is not touched.
 * @throws ImageError where the images are not what this knows, or do not fit
 */
export function biosBootPieces(
  { biosBoot }: Pick<DiskLayout, 'biosBoot'>,
  images: { readonly bootImage: string; readonly coreImage: string },
): readonly DiskPiece[] {
  const boot = readFileSync(images.bootImage);
  const core = readFileSync(images.coreImage);
  if (boot.length !== sectorBytes || boot.readUInt16LE(510) !== 0xaa55) {
    throw new ImageError(`expected a boot sector in ${images.bootImage}, got something else`);
  }
  if (core.length > biosBoot.sectors * sectorBytes) {
    throw new ImageError(`expected GRUB to fit its partition, got ${core.length} bytes`);
  }
  boot.writeBigUInt64LE(BigInt(biosBoot.start), kernelSectorOffset);
  boot.writeUInt8(0xff, bootDriveOffset);
  boot.writeUInt16LE(0x9090, driveCheckOffset);
  // grub-mkimage has written the length: the sectors after the first.
  const rest = Math.ceil(core.length / sectorBytes) - 1;
  if (core.readUInt16LE(blockListOffset + 8) !== rest) {
    throw new ImageError(
      `expected a core image of GRUB in ${images.coreImage}, got something else`,
    );
  }
  core.writeBigUInt64LE(BigInt(biosBoot.start + 1), blockListOffset);
  return [
    { offset: 0, bytes: boot.subarray(0, bootCodeBytes) },
    { offset: biosBoot.start * sectorBytes, bytes: core },
  ];
}

/**
 * grub.cfg: the newest kernel by Debian's own links, at once, with the console on ttyS0. What is mounted
 * is fstab's to say, not the partition table's.
 */
export function grubConfiguration({ rootId }: Pick<DiskLayout, 'rootId'>): string {
  return `serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
set default=0
set timeout=0
menuentry 'Debian' {
  linux /vmlinuz root=PARTUUID=${rootId} ro rootwait console=ttyS0 quiet systemd.gpt_auto=0
  initrd /initrd.img
}
`;
}
