import { parseGuestMemory } from '../machine/memory-size.ts';
import { probeFuse } from '../memory/fuse/fuse-mount.ts';
import { FuseUnavailable } from '../memory/fuse/fuse-unavailable.ts';
import { asArgument } from './as-argument.ts';

export type MemoryChoice = 'auto' | 'sealed' | 'plain';

/** As {@link parseGuestMemory}. @throws InvalidArgumentError */
export function parseMemorySize(text: string): number {
  return asArgument(parseGuestMemory, text);
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
