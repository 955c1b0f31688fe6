import { Command, Option } from 'commander';
import { type DemonstrationReport, demonstrate } from '../../demo/demonstration.ts';
import { present } from '../../demo/present.ts';
import { interruptible } from '../interruption.ts';
import { chooseMemory, type MemoryChoice, parseMemorySize } from '../memory-choice.ts';
import { PhaseDisplay } from '../phase-display.ts';
import { readyParts } from './setup.ts';

interface DemoFlags {
  readonly json?: boolean;
  readonly memory: MemoryChoice;
  readonly size: number;
  readonly out: string;
  readonly accel: 'auto' | 'kvm' | 'tcg';
}

export function demoCommand(): Command {
  return new Command('demo')
    .description('boot a guest in sealed RAM and show its encrypted DMA (npm start)')
    .option('--json', 'print one JSON object')
    .addOption(memoryOption())
    .addOption(sizeOption())
    .addOption(acceleratorOption())
    .option('--out <directory>', 'where the pictures go', 'out')
    .action(async (flags: DemoFlags) => {
      const report = await interruptible((signal) => demo(flags, signal));
      process.stdout.write(flags.json ? `${JSON.stringify(report)}\n` : present(report));
      for (const words of report.failures) process.stderr.write(`sealbus: ${words}\n`);
      process.exitCode = report.failures.length === 0 ? 0 : 1;
    });
}

export function sizeOption(): Option {
  return new Option('--size <bytes>', 'guest memory, in whole MiB')
    .argParser(parseMemorySize)
    .default(512 * 2 ** 20, '512M');
}

export function memoryOption(): Option {
  return new Option('--memory <how>', 'how guest memory is held')
    .choices(['auto', 'sealed', 'plain'])
    .default('auto', 'sealed; plain, with a warning, where /dev/fuse cannot be had');
}

export function acceleratorOption(): Option {
  return new Option('--accel <which>', 'how the guest runs')
    .choices(['auto', 'kvm', 'tcg'])
    .default('auto', 'KVM where a probe shows that it works, else TCG');
}

async function demo(flags: DemoFlags, signal: AbortSignal): Promise<DemonstrationReport> {
  const parts = await readyParts(signal);
  const display = new PhaseDisplay();
  try {
    return await demonstrate({
      parts,
      memory: await chooseMemory(flags.memory, (words) => display.say(words)),
      bytes: flags.size,
      outputDirectory: flags.out,
      accelerator: flags.accel,
      signal,
      onPhase: (words) => display.begin(words),
      log: (message) => display.say(message),
    });
  } finally {
    display.end();
  }
}
