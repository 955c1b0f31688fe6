/** Where a function of a VM that is served may be in its guest, beside what checkPlace says of any VM. */
import { formatRequesterId, type RequesterId } from '../pci/requester-id.ts';

/** Device numbers on bus 0: the host bridge, and what is the chipset's and the agent's. */
const TAKEN = [0x00, 0x1d, 0x1e, 0x1f];

/**
 * @param beside where the VM's functions are; itself may be among them
 * @returns what is wrong with the place, in words
 */
export function placeProblems(address: RequesterId, beside: readonly RequesterId[]): string[] {
  const name = formatRequesterId(address).slice(5);
  const device = address >> 3;
  const found = [address, ...beside].some((one) => one >> 3 === device && (one & 7) === 0);
  return [
    ...(TAKEN.includes(device)
      ? [`expected a free place, got ${name}, which the machine has`]
      : []),
    ...(found ? [] : [`expected a function 0 beside ${name}, got none: a guest looks no further`]),
  ];
}
