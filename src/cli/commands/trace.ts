import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import { parseCount, traceVariables } from '../../trace/environment.ts';
import { runChild } from '../child-command.ts';
import { perfettoOf, writePieces } from '../perfetto-file.ts';
import { describeTrace, takeTraces } from '../trace-files.ts';

interface TraceFlags {
  readonly output: string;
  readonly perfetto?: string;
  readonly data?: number;
  readonly events?: number;
}

const EXIT_NOTHING_TRACED = 1;
const MAIN = join(import.meta.dirname, '../main.ts');

export function traceCommand(): Command {
  return new Command('trace')
    .description('run a command and record what the functions of its machines do')
    .usage('[options] -- command [arguments...]')
    .argument('<command...>', 'a command of sealbus, such as run, or any program')
    .passThroughOptions()
    .option('-o, --output <file>', 'where the trace goes', 'trace.ndjson')
    .option('--perfetto <file>', 'write one for ui.perfetto.dev too')
    .option(
      '--data <bytes>',
      "keep so many bytes of each DMA, in the clear; 'all' keeps all of them",
      count,
    )
    .option('--events <n>', 'so many events a machine at most (default: 10000000)', count)
    .addHelpText(
      'after',
      '\nA first word that is a command of sealbus is taken as that (sealbus trace -- run -- ls); any other' +
        '\nis a program (sealbus trace -- node my-program.ts). Every machine that it makes, in any process' +
        '\nunder it, is recorded: the first one into FILE, others beside it with -2, -3 and so on.' +
        '\n\nExit code: the command’s; 1 where that is 0 and no machine was traced. ‘sealbus report FILE’ says' +
        '\nwhat a trace has to say.',
    )
    .action(async (words: string[], flags: TraceFlags, command: Command) => {
      const own = command.parent?.commands.map((other) => other.name()) ?? [];
      process.exitCode = await trace(words, own, flags);
    });
}

async function trace(
  words: readonly string[],
  own: readonly string[],
  flags: TraceFlags,
): Promise<number> {
  if (statSync(flags.output, { throwIfNoEntry: false })?.isDirectory()) {
    throw new Error(`expected a file to write a trace to, got the directory ${flags.output}`);
  }
  const [first = ''] = words;
  const sealbus = own.includes(first) ? [process.execPath, ...process.execArgv, MAIN] : [];
  const directory = temporaryBeside(flags.output);
  try {
    const code = await runChild([...sealbus, ...words], {
      [traceVariables.directory]: directory,
      [traceVariables.dataBytesMax]: countText(flags.data),
      [traceVariables.eventsMax]: countText(flags.events),
    });
    const traced = takeTraces(directory, flags.output);
    for (const machine of traced) say(`traced ${describeTrace(machine)}`);
    const silent = readdirSync(directory).length;
    if (silent > 0) say(`${silent} more wrote nothing: killed at once, or no room on the disk`);
    if (traced.length === 0) {
      say('no machine was traced: the command made none, or ended before it did');
      return code === 0 ? EXIT_NOTHING_TRACED : code;
    }
    if (flags.perfetto !== undefined) {
      const paths = traced.map(({ path }) => path);
      writePieces(flags.perfetto, perfettoOf(paths));
      say(`wrote ${flags.perfetto}: open it in ui.perfetto.dev`);
    }
    return code;
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Beside it, so that what is there is on the same file system. */
function temporaryBeside(output: string): string {
  try {
    return mkdtempSync(join(dirname(output), '.sealbus-trace-'));
  } catch (error) {
    const words = error instanceof Error ? error.message : String(error);
    throw new Error(`expected to write a trace to ${output}, got: ${words}`);
  }
}

function countText(value: number | undefined): string {
  if (value === undefined) return '';
  return value === Number.POSITIVE_INFINITY ? 'all' : String(value);
}

function count(text: string): number {
  const value = parseCount(text);
  if (value === undefined) throw new InvalidArgumentError("expected a whole number or 'all'");
  return value;
}

function say(words: string): void {
  process.stderr.write(`sealbus: ${words}\n`);
}
