import { Command, InvalidArgumentError } from 'commander';
import { type ControlFlags, socketOption, withControl } from '../control-choice.ts';
import { interruptible } from '../interruption.ts';

interface RecordFlags extends ControlFlags {
  readonly last: number;
  readonly follow?: boolean;
}

export function recordCommand(): Command {
  return new Command('record')
    .description('bindings, key events and refused DMA of sealbus serve, a line of JSON each')
    .option('--last <n>', 'so many of the newest lines', lines, 100)
    .option('--follow', 'then each as it comes, until Ctrl-C')
    .addOption(socketOption())
    .action(async (flags: RecordFlags) => {
      const { last, follow = false } = flags;
      const print = (line: unknown) => void process.stdout.write(`${JSON.stringify(line)}\n`);
      await interruptible((signal) =>
        withControl(flags, async (client) => {
          const asked = await client.ask('record', { last, follow }, follow ? { line: print } : {});
          for (const line of asked) print(line);
          if (!follow) return;
          const stopped = new Promise<void>((end) => signal.addEventListener('abort', () => end()));
          const ended = await Promise.race([client.gone, stopped]);
          if (ended !== undefined && !signal.aborted) throw ended;
        }),
      );
    });
}

function lines(text: string): number {
  if (/^\d{1,5}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('expected a number of lines');
}
