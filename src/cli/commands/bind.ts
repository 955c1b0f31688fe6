import { Command, InvalidArgumentError, Option } from 'commander';
import { formatRequesterId, parseRequesterId } from '../../pci/requester-id.ts';
import type { ControlClient } from '../../serve/control/control-client.ts';
import type { ControlOperations } from '../../serve/control/control-request.ts';
import type { FunctionDescription, ShownRange } from '../../serve/served-vm.ts';
import { type ControlFlags, jsonOption, socketOption, withControl } from '../control-choice.ts';
import { parsePageAddress, parsePageBytes } from './share.ts';

interface BindFlags extends ControlFlags {
  readonly clear?: boolean;
  readonly at?: string;
  readonly range?: PageRange;
}

/** As the control socket takes it. */
type PageRange = Pick<ControlOperations['bind-range'], 'address' | 'bytes'>;

export function bindCommand(): Command {
  return new Command('bind')
    .description('bind a function to another key slot of its VM, to none, or to another VM')
    .argument('<rid>', 'its requester ID, as sealbus inspect shows it, such as 0001:00:04.0')
    .argument('[slot|vm]', 'number of a key slot, or name of a VM, where it is moved')
    .option('--clear', 'to no slot: its DMA is in the clear, for shared pages')
    .option(
      '--at <address>',
      'where it goes in that VM, as its guest has it, such as 01:00.0 (default: where it was, or a free root port)',
    )
    .addOption(
      new Option(
        '--range <address+size>',
        'only what it does there, as the guest has it, such as 0x200000+64K: its slots come from the translation then',
      ).argParser(parseRange),
    )
    .addOption(jsonOption())
    .addOption(socketOption())
    .addHelpText(
      'after',
      '\nA function behind a root port moves between guests that run; one that does not let go of it loses it after 30 s.',
    )
    .action(async (rid: string, target: string | undefined, flags: BindFlags) => {
      const bound = await withControl(flags, (client) => bind(client, rid, target, flags));
      const was = formatRequesterId(parseRequesterId(rid));
      const text = bound.rid === was ? boundText(bound) : movedText(was, target ?? '', bound);
      process.stdout.write(flags.json ? `${JSON.stringify(bound)}\n` : `${text}\n`);
    });
}

function bind(
  client: ControlClient,
  rid: string,
  target: string | undefined,
  { clear = false, at, range }: BindFlags,
) {
  if ((target !== undefined) === clear) {
    throw new Error(
      `expected a slot, a VM or --clear, got ${clear ? 'two of them' : 'none'}: say what to bind ${rid} to`,
    );
  }
  if (range !== undefined) {
    if (at !== undefined) throw new Error(`expected a range, or a place to go to, got both`);
    const slot = target === undefined ? { clear } : { slot: target };
    return client.ask('bind-range', { rid, ...range, ...slot });
  }
  if (target === undefined) {
    if (at !== undefined) throw new Error(`expected a VM to go to ${at} in, got --clear`);
    return client.ask('bind-clear', { rid });
  }
  return client.ask('bind', { rid, target, ...(at === undefined ? {} : { at }) });
}

function boundText({ rid, entry }: FunctionDescription): string {
  if (entry?.ranges !== undefined) return rangesText(rid, entry.ranges);
  return entry?.slot === 'in-the-clear'
    ? `${rid} goes in the clear`
    : `${rid} goes through slot ${entry?.slot}`;
}

/** Of a function that is another VM's now, which has given it another requester ID. */
function movedText(was: string, vm: string, { rid, address, entry }: FunctionDescription): string {
  const place = address.replace(/^0000:/, '');
  return `${was} has moved to ${vm}: it is ${rid} now, ${place} in the guest, and goes through slot ${entry?.slot}`;
}

/** A function's slots by range, the last one up to where addresses end. */
export function rangesText(rid: string, ranges: readonly ShownRange[]): string {
  const shown = ranges.map(({ start, slot }) => {
    const how = slot === 'in-the-clear' ? 'in the clear' : `slot ${slot}`;
    return `${how} from ${start}`;
  });
  return `${rid} goes by the translation: ${shown.join(', ')}`;
}

/** @throws InvalidArgumentError */
export function parseRange(text: string): PageRange {
  const [address, size, ...more] = text.split('+');
  if (address === undefined || size === undefined || more.length > 0) {
    throw new InvalidArgumentError('expected an address and a size, such as 0x200000+64K');
  }
  return { address: parsePageAddress(address), bytes: parsePageBytes(size) };
}
