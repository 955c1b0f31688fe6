import { Command } from 'commander';
import { type ControlFlags, socketOption, withControl } from '../control-choice.ts';

export function metricsCommand(): Command {
  return new Command('metrics')
    .description("counters of sealbus serve, in Prometheus' text format")
    .addOption(socketOption())
    .action(async (flags: ControlFlags) => {
      process.stdout.write(await withControl(flags, (client) => client.ask('metrics', {})));
    });
}
