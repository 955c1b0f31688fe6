import { Command, InvalidArgumentError } from 'commander';
import { parseBytes } from '../../machine/memory-size.ts';
import type { SharedDescription } from '../../serve/shared-description.ts';
import { type ControlFlags, jsonOption, socketOption, withControl } from '../control-choice.ts';

interface ShareFlags extends ControlFlags {
  readonly keep?: boolean;
  readonly discard?: boolean;
}

export function shareCommand(): Command {
  return conversion('share', 'make pages of a VM shared: DRAM holds them in the clear');
}

export function unshareCommand(): Command {
  return conversion('unshare', 'make pages of a VM private again: DRAM holds them encrypted');
}

function conversion(name: 'share' | 'unshare', description: string): Command {
  return new Command(name)
    .description(description)
    .argument('<vm>', 'its name')
    .argument('<address>', 'guest-physical, in hexadecimal, such as 0x200000', parsePageAddress)
    .argument('<size>', 'of whole pages, such as 64K', parsePageBytes)
    .option('--keep', 'the pages have their content afterwards')
    .option('--discard', 'the pages are zeros afterwards')
    .addOption(jsonOption())
    .addOption(socketOption())
    .action(async (vm: string, address: number, bytes: number, flags: ShareFlags) => {
      const { keep = false, discard = false } = flags;
      if (keep === discard) {
        throw new Error(
          `expected --keep or --discard, got ${keep ? 'both' : 'neither'}: say what becomes of the content`,
        );
      }
      const shared = await withControl(flags, (client) =>
        client.ask(`pages-${name}`, { vm, address, bytes, keep }),
      );
      process.stdout.write(flags.json ? `${JSON.stringify(shared)}\n` : `${sharedText(shared)}\n`);
    });
}

/** `shared: 64 KiB at 0x200000, 4 KiB at 0x300000`. */
export function sharedText({ bytes, ranges, more }: SharedDescription): string {
  if (bytes === 0) return 'shared: nothing';
  if (ranges.length === 0) {
    return `shared: ${bytes / 1024} KiB, at addresses that no VMM tells of now`;
  }
  const shown = ranges.map((range) => `${range.bytes / 1024} KiB at ${range.address}`);
  return `shared: ${[...shown, ...(more ? ['…'] : [])].join(', ')}`;
}

/** @throws InvalidArgumentError */
export function parsePageAddress(text: string): number {
  const address = /^(?:0x)?[0-9a-f]{1,14}$/i.test(text) ? Number.parseInt(text, 16) : Number.NaN;
  if (Number.isSafeInteger(address) && address % 4096 === 0) return address;
  throw new InvalidArgumentError(
    'expected the address of a 4096-byte page, in hexadecimal, such as 0x200000',
  );
}

/** @throws InvalidArgumentError */
export function parsePageBytes(text: string): number {
  const bytes = parseBytes(text);
  if (Number.isSafeInteger(bytes) && bytes > 0 && bytes % 4096 === 0) return bytes;
  throw new InvalidArgumentError('expected a size of whole 4096-byte pages, such as 64K');
}
