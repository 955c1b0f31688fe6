/** What the guest is told of the addresses that a mapping may have (virtio 1.2 §5.13.4). */

/**
 * Translatable addresses, inclusive: those of x86's 4-level page tables. A DMA port counts in
 * numbers, which are exact up to 2^53.
 */
export const INPUT_START = 0n;
export const INPUT_END = (1n << 48n) - 1n;

/** Guest-physical addresses end where x86's page tables do. */
export const TARGET_END = (1n << 52n) - 1n;

/**
 * One page size. A larger one would be a hint that costs: Linux sends a MAP for each run of pages of
 * one size, so a buffer of 3 MiB would take two with 2 MiB pages, and takes one with 4 KiB alone.
 */
export const PAGE_SIZE_MASK = 0x1000n;
export const GRANULE = 0x1000n;

/** Domain numbers that the driver may use, inclusive. */
export const DOMAIN_START = 0;
export const DOMAIN_END = 0xffff;

/** Where an x86 function's interrupt messages go (Intel SDM vol. 3, "Message Address Register"). */
export const MSI_START = 0xfee0_0000n;
export const MSI_END = 0xfeef_ffffn;
