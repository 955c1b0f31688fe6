/** The `sealbus` command. Results go to stdout, everything else to stderr. */
import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { bindCommand } from './commands/bind.ts';
import { demoCommand } from './commands/demo.ts';
import { doctorCommand } from './commands/doctor.ts';
import { faultsCommand } from './commands/faults.ts';
import { imageCommand } from './commands/image.ts';
import { initCommand } from './commands/init.ts';
import { inspectCommand } from './commands/inspect.ts';
import { keyCommand } from './commands/key.ts';
import { metricsCommand } from './commands/metrics.ts';
import { perfettoCommand } from './commands/perfetto.ts';
import { psCommand } from './commands/ps.ts';
import { recordCommand } from './commands/record.ts';
import { replayCommand } from './commands/replay.ts';
import { reportCommand } from './commands/report.ts';
import { runCommand } from './commands/run.ts';
import { serveCommand } from './commands/serve.ts';
import { setupCommand } from './commands/setup.ts';
import { shareCommand, unshareCommand } from './commands/share.ts';
import { subsystemCommand } from './commands/subsystem.ts';
import { testCommand } from './commands/test.ts';
import { traceCommand } from './commands/trace.ts';
import { vmCommand } from './commands/vm.ts';
import { exitCodeOf } from './exit-code.ts';

const { version, description } = JSON.parse(
  readFileSync(new URL('../../package.json', import.meta.url), 'utf8'),
) as { version: string; description: string };

const program = new Command('sealbus')
  .description(description)
  .version(version)
  .enablePositionalOptions()
  .showHelpAfterError('(sealbus --help lists what there is)')
  .configureOutput({ outputError: (words, write) => write(`sealbus: ${words}`) });

for (const command of [
  ...[runCommand(), testCommand(), initCommand(), imageCommand(), demoCommand()],
  ...[traceCommand(), reportCommand(), perfettoCommand(), replayCommand(), faultsCommand()],
  ...[serveCommand(), psCommand(), inspectCommand(), keyCommand(), bindCommand(), vmCommand()],
  ...[shareCommand(), unshareCommand(), subsystemCommand()],
  ...[recordCommand(), metricsCommand()],
  ...[doctorCommand(), setupCommand()],
]) {
  program.addCommand(command.copyInheritedSettings(program));
  for (const nested of command.commands) nested.copyInheritedSettings(command);
}

// A reader that has gone (`sealbus … | head`), or a terminal that has (EIO), is no error of ours: what
// runs is still to be ended in order.
for (const stream of [process.stdout, process.stderr]) {
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE' && error.code !== 'EIO') throw error;
  });
}

try {
  await program.parseAsync();
} catch (error) {
  process.exitCode = exitCodeOf(error);
}
