import { InvalidArgumentError } from 'commander';
import { probeFuse } from '../memory/fuse/fuse-mount.ts';
import { FuseUnavailable } from '../memory/fuse/fuse-unavailable.ts';

export type MemoryChoice = 'auto' | 'sealed' | 'plain';

const UNITS: Readonly<Record<string, number>> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30 };

/** QEMU's emulated CPU has 40 address bits, and a hole below 4 GiB takes some of them. */
const BYTES_MAX = 512 * 2 ** 30;

/** `512M`, `2G`, `1048576`, `64MiB`; NaN where it is none of these. */
export function parseBytes(text: string): number {
  const [, digits, unit = ''] = /^(\d+)([KMG]?)(?:iB)?$/i.exec(text) ?? [];
  return Number(digits) * (UNITS[unit.toUpperCase()] ?? Number.NaN);
}

/** `512M`, `2G`; 64 MiB to 512 GiB, in whole MiB. @throws InvalidArgumentError */
export function parseMemorySize(text: string): number {
  const bytes = parseBytes(text);
  if (!(bytes >= 2 ** 26 && bytes <= BYTES_MAX && bytes % 2 ** 20 === 0)) {
    throw new InvalidArgumentError('expected a size in whole MiB from 64M to 512G, such as 2G');
  }
  return bytes;
}

/**
 * Sealed, unless something else was asked for. Where this host cannot seal and nobody insisted, it is
 * plain, and that is said loudly with the reason.
 * @throws FuseUnavailable where `sealed` was insisted on and cannot be had
 */
export async function chooseMemory(
  choice: MemoryChoice,
  say: (words: string) => void,
): Promise<'sealed' | 'plain'> {
  if (choice === 'plain') {
    say('WARNING: NOTHING IS ENCRYPTED: guest memory is plain, as was asked for');
    return 'plain';
  }
  try {
    await probeFuse();
    return 'sealed';
  } catch (error) {
    if (choice === 'sealed' || !(error instanceof FuseUnavailable)) throw error;
    say(`WARNING: NOTHING IS ENCRYPTED: guest memory is plain, since ${error.message}`);
    return 'plain';
  }
}
