import { readdirSync, readlinkSync } from 'node:fs';

/**
 * Looks whether a descriptor was handed over by whoever started this process, and is not one of Node's own, which
 * have the numbers that nobody has handed over: to wait for a key there would be to wait for ever.
 * @throws Error where it is not open, or is Node's
 */
export function expectInherited(descriptor: number): void {
  const wanted = targetOf(descriptor);
  if (wanted === undefined) throw notHandedOver(descriptor, 'none is open there');
  const others = readdirSync('/proc/self/fd')
    .map(Number)
    .filter((fd) => fd !== descriptor);
  // Of a pipe of Node's own both ends are here.
  const both = wanted.startsWith('pipe:') && others.some((fd) => targetOf(fd) === wanted);
  if (wanted.startsWith('anon_inode:') || both) {
    throw notHandedOver(descriptor, `it is Node's own (${wanted})`);
  }
}

function targetOf(fd: number): string | undefined {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return undefined;
  }
}

function notHandedOver(descriptor: number, got: string): Error {
  return new Error(
    `expected descriptor ${descriptor} from whoever starts this command, got ${got}: ` +
      `hand one over, such as by ${descriptor}<key`,
  );
}
