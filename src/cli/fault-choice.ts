import { Option } from 'commander';
import {
  type FaultChoice,
  type FaultHandle,
  type FaultPlan,
  formatSeed,
  parseFault,
  parseSeed,
  type Strike,
} from '../faults/index.ts';
import type { PluggedFunction } from '../machine/machine.ts';
import { formatRequesterId } from '../pci/requester-id.ts';
import { BoundedLog } from '../vfio-user/bounded-log.ts';
import { asArgument } from './as-argument.ts';

export function faultOption(): Option {
  return new Option(
    '--fault <name>',
    'have something go wrong: NAME[:key=value,…], such as interrupt.lose:nth=3; may be repeated; ' +
      '‘sealbus faults’ lists them',
  )
    .argParser((text, before: readonly FaultChoice[]) => [...before, asArgument(parseFault, text)])
    .default([], 'none');
}

export function faultSeedOption(): Option {
  return new Option(
    '--fault-seed <n>',
    'draw the faults from this seed, as a run with --fault names it (default: a random one)',
  ).argParser((text) => asArgument(parseSeed, text));
}

/**
 * Arms what was asked for at the functions of a machine.
 * @throws Error where it is for a function that is not there; RangeError, TypeError as FaultPlan.arm
 */
export function armFaults(
  plan: FaultPlan,
  choices: readonly FaultChoice[],
  functions: readonly PluggedFunction[],
): FaultHandle[] {
  return choices.map(({ name, options }) => {
    const { rid } = options;
    if (rid !== undefined && !functions.some((one) => one.rid === rid)) {
      const there = functions.map((one) => formatRequesterId(one.rid)).join(', ');
      throw new Error(
        `expected a function for --fault ${name} at ${formatRequesterId(rid)}, got none: there are ${there || 'none'}`,
      );
    }
    return plan.arm(name, options);
  });
}

/** Tells of strikes, a line each and so many a second. */
export function strikeTeller(say: (line: string) => void): (strike: Strike) => void {
  const log = new BoundedLog((line) => say(`fault: ${line}`));
  return ({ fault, rid, detail }) => log.log(`${fault} at ${formatRequesterId(rid)}: ${detail}`);
}

/** What a run with faults says at its end: how often each struck, and the seed that repeats it. */
export function faultSummary(plan: FaultPlan, faults: readonly FaultHandle[]): string {
  const counts = faults.map(({ name, struck }) => `${name} ${struck}`).join(', ');
  return `faults that struck: ${counts} (--fault-seed ${formatSeed(plan.seed)} repeats them)`;
}
