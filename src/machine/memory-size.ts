const UNITS: Readonly<Record<string, number>> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };

/** QEMU's emulated CPU has 40 address bits, and a hole below 4 GiB takes some of them. */
export const MEMORY_BYTES_MAX = 512 * 2 ** 30;

/** `512M`, `2G`, `1048576`, `64MiB`; NaN where it is none of these. */
export function parseBytes(text: string): number {
  const [, digits, unit = ''] = /^(\d+)([KMG]?)(?:iB)?$/i.exec(text) ?? [];
  return Number(digits) * (UNITS[unit.toUpperCase()] ?? Number.NaN);
}

/** Size of a guest's memory: `512M`, `2G`; 64 MiB to 512 GiB, in whole MiB. @throws RangeError */
export function parseGuestMemory(text: string): number {
  const bytes = parseBytes(text);
  if (!(bytes >= 2 ** 26 && bytes <= MEMORY_BYTES_MAX && bytes % 2 ** 20 === 0)) {
    throw new RangeError('expected a size in whole MiB from 64M to 512G, such as 2G');
  }
  return bytes;
}
