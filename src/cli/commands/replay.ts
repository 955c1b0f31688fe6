import { Command } from 'commander';
import { type Replayed, replay } from '../../replay/replay.ts';
import { ReplayError } from '../../replay/replay-stop.ts';
import { readTrace } from '../../trace/read-trace.ts';
import { deviceClass, parseDevice } from '../device-choice.ts';

interface ReplayFlags {
  readonly device?: string;
  readonly rid?: string;
  readonly json?: boolean;
}

const EXIT_DIFFERENT = 1;
const EXIT_UNUSABLE = 2;

export function replayCommand(): Command {
  return new Command('replay')
    .description('play a recorded session against a device alone, and show where it first differs')
    .argument('<trace>', 'what sealbus trace --data all, or a Trace with all data, wrote')
    .option('--device <which>', "the device: 'edu' or FILE.ts[#CLASS]")
    .option(
      '--rid <BB:DD.F>',
      'which function of the trace; default: the one with the device’s vendor and device ID',
    )
    .option('--json', 'the outcome as one JSON object')
    .addHelpText(
      'after',
      '\nNo guest runs: accesses, resets and the data of DMA come from the trace. A device that is made from' +
        '\nchance or from files differs where these do; docs/client-and-replay.md says what is compared.' +
        '\n\nExit code: 0 where the device does the same, 1 where it differs, 2 where trace and device do not' +
        '\nfit together.',
    )
    .action(async (path: string, flags: ReplayFlags) => {
      process.exitCode = await replayed(path, flags);
    });
}

async function replayed(path: string, flags: ReplayFlags): Promise<number> {
  let outcome: Replayed;
  try {
    const { device, rid } = flags;
    const [choice] = device === undefined ? [] : parseDevice(device);
    if (choice === undefined) throw new ReplayError('expected --device edu or FILE.ts, got none');
    const type = await deviceClass(choice);
    const options = { name: path, ...(rid === undefined ? {} : { rid }) };
    outcome = await replay(readTrace(path), () => new type(), options);
  } catch (error) {
    process.stderr.write(`sealbus: ${error instanceof Error ? error.message : String(error)}\n`);
    if (process.env.SEALBUS_DEBUG && error instanceof Error) {
      process.stderr.write(`${error.stack}\n`);
    }
    return EXIT_UNUSABLE;
  }
  process.stdout.write(flags.json ? `${JSON.stringify(asJson(outcome))}\n` : `${outcome.text()}\n`);
  return outcome.same ? 0 : EXIT_DIFFERENT;
}

function asJson({ rid, device, same, played, inputs, cut, difference }: Replayed): object {
  return { rid, device, same, played, inputs, cut, ...(difference ? { difference } : {}) };
}
