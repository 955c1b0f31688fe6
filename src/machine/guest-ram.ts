import { mprotect, PROT_NONE } from '../ffi/libc.ts';
import { gpa } from '../memory/guest-memory.ts';
import type { PlainMemory } from '../memory/plain-memory.ts';
import type { SealedMemory } from '../memory/sealed-memory.ts';
import type { DmaRegion, RegionListener } from '../vfio-user/dma-regions.ts';

/** A function's memory follows what its VMM maps: plain RAM is what libvfio-user has mapped. */
export function plainRegions(memory: PlainMemory): RegionListener {
  return {
    map(region) {
      if (region.address === 0) return; // No descriptor came with it: not guest RAM.
      memory.regions.add(placed(region, region));
    },
    unmap: (region) => void memory.regions.remove(region.gpa, region.size),
  };
}

/**
 * The same for sealed RAM: only what the RAM file backs is guest RAM (firmware and frame buffers are
 * not), and its bytes are reached through the controller. libvfio-user has mapped the file as well,
 * which is the CPU's side with its plaintext: that mapping is closed at once, so that nothing in this
 * process can go past the IOMMU, by mistake either.
 */
export function sealedRegions(memory: SealedMemory): RegionListener {
  return {
    map(region) {
      const { file } = region;
      if (file?.device !== memory.file.device || file.inode !== memory.file.inode) return;
      if (file.offset + region.size > memory.bytes) return; // What no byte of the file backs is no RAM.
      if (region.address !== 0) mprotect(region.address, region.size, PROT_NONE);
      memory.regions.add(placed(region, file.offset));
    },
    unmap: (region) => void memory.regions.remove(region.gpa, region.size),
  };
}

function placed<Backing>(region: DmaRegion, backing: Backing) {
  const { size, readable, writable } = region;
  return { gpa: gpa(region.gpa), size, readable, writable, backing };
}
