import { Command } from 'commander';
import { type ControlFlags, jsonOption, socketOption, withControl } from '../control-choice.ts';

export function bindCommand(): Command {
  return new Command('bind')
    .description("have a function's DMA go through another key slot of its VM")
    .argument('<rid>', 'its requester ID, as sealbus inspect shows it, such as 0001:00:04.0')
    .argument('<slot|vm>', 'number of a key slot, or name of the VM whose own it is')
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
