import { Option } from 'commander';
import { kernelName, kernelVariable, parseKernel } from '../setup/kernel-choice.ts';
import { asArgument } from './as-argument.ts';

/** `--kernel`, for every command that boots guests; its value is what `EnsureOptions.kernel` takes. */
export function kernelOption(): Option {
  return new Option(
    '--kernel <which>',
    'trixie, trixie-backports, a release of Debian’s cloud kernels, or the directory of one that ' +
      `you built; fetched where it is not here (default: ${kernelVariable} says it, else trixie)`,
  ).argParser(parseKernelOption);
}

/** A directory becomes absolute: what a command starts may run elsewhere. @throws InvalidArgumentError */
function parseKernelOption(text: string): string {
  return asArgument((words) => kernelName(parseKernel(words)), text);
}
