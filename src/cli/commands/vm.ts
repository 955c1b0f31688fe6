import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import { type ControlFlags, jsonOption, socketOption, withControl } from '../control-choice.ts';
import { expectInherited } from '../inherited-descriptor.ts';

interface AddFlags extends ControlFlags {
  readonly fd?: number;
}

export function vmCommand(): Command {
  const vm = new Command('vm').description('add VMs to a sealbus serve that runs, and remove them');
  vm.addCommand(
    new Command('add')
      .description('the VMs of a configuration, beside those that are there')
      .argument('<config>', 'as for sealbus serve')
      .option(
        '--fd <n>',
        'hands over that descriptor, which the configuration names as a key',
        descriptor,
      )
      .addOption(jsonOption())
      .addOption(socketOption())
      .action(async (file: string, flags: AddFlags) => {
        const text = readFileSync(file, 'utf8');
        const directory = resolve(dirname(file));
        if (flags.fd !== undefined) expectInherited(flags.fd);
        const key = flags.fd === undefined ? {} : { descriptor: flags.fd };
        const added = await withControl(flags, (client) =>
          client.ask('vm-add', { text, file, directory, ...key }, key),
        );
        process.stdout.write(
          flags.json
            ? `${JSON.stringify(added)}\n`
            : added
                .map(({ name, slot, command }) => `# VM ${name}: key slot ${slot}\n${command}\n`)
                .join('\n'),
        );
      }),
  );
  vm.addCommand(
    new Command('remove')
      .description('ends a VM: its keys are destroyed, its memory goes')
      .argument('<vm>', 'its name')
      .addOption(jsonOption())
      .addOption(socketOption())
      .action(async (name: string, flags: ControlFlags) => {
        const removed = await withControl(flags, (client) => client.ask('vm-remove', { vm: name }));
        if (flags.json) process.stdout.write(`${JSON.stringify(removed)}\n`);
        else if (removed.attached > 0) {
          process.stderr.write(
            `sealbus: a VMM was attached to ${removed.attached} functions of ${name}, and has lost them\n`,
          );
        }
      }),
  );
  return vm;
}

function descriptor(text: string): number {
  if (/^\d{1,4}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('expected the number of an open descriptor, such as 3');
}
