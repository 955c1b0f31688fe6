import { Command } from 'commander';
import { type ControlFlags, jsonOption, socketOption, withControl } from '../control-choice.ts';

export function bindCommand(): Command {
  return new Command('bind')
    .description('bind a function to another key slot of its VM, or move it to another VM')
    .argument('<rid>', 'its requester ID, as sealbus inspect shows it, such as 0001:00:04.0')
    .argument('<slot|vm>', 'number of a key slot, or name of a VM')
    .addOption(jsonOption())
    .addOption(socketOption())
    .action(async (rid: string, target: string, flags: ControlFlags) => {
      const bound = await withControl(flags, (client) => client.ask('bind', { rid, target }));
      process.stdout.write(
        flags.json
          ? `${JSON.stringify(bound)}\n`
          : `${bound.rid} goes through slot ${bound.entry?.slot}\n`,
      );
    });
}
