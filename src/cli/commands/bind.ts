import { Command } from 'commander';
import type { ControlClient } from '../../serve/control/control-client.ts';
import { type ControlFlags, jsonOption, socketOption, withControl } from '../control-choice.ts';

interface BindFlags extends ControlFlags {
  readonly clear?: boolean;
  readonly at?: string;
}

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
    .addOption(jsonOption())
    .addOption(socketOption())
    .addHelpText(
      'after',
      '\nA function behind a root port moves between guests that run; one that does not let go of it loses it after 30 s.',
    )
    .action(async (rid: string, target: string | undefined, flags: BindFlags) => {
      const bound = await withControl(flags, (client) => bind(client, rid, target, flags));
      const slot = bound.entry?.slot;
      const how = slot === 'in-the-clear' ? 'goes in the clear' : `goes through slot ${slot}`;
      process.stdout.write(flags.json ? `${JSON.stringify(bound)}\n` : `${bound.rid} ${how}\n`);
    });
}

function bind(
  client: ControlClient,
  rid: string,
  target: string | undefined,
  { clear = false, at }: BindFlags,
) {
  if ((target !== undefined) === clear) {
    throw new Error(
      `expected a slot, a VM or --clear, got ${clear ? 'two of them' : 'none'}: say what to bind ${rid} to`,
    );
  }
  if (target === undefined) {
    if (at !== undefined) throw new Error(`expected a VM to go to ${at} in, got --clear`);
    return client.ask('bind-clear', { rid });
  }
  return client.ask('bind', { rid, target, ...(at === undefined ? {} : { at }) });
}
