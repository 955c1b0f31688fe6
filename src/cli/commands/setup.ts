import { Command } from 'commander';
import { ensureParts } from '../../setup/ensure-parts.ts';
import type { Parts } from '../../setup/parts.ts';
import { renderProgress } from '../../setup/progress.ts';
import { kernelOption } from '../kernel-option.ts';

/** The parts, fetched and built where they are missing, with progress on stderr. @throws SetupError */
export async function readyParts(signal?: AbortSignal, kernel?: string): Promise<Parts> {
  const progress = renderProgress();
  try {
    return await ensureParts({
      progress: progress.event,
      ...(signal === undefined ? {} : { signal }),
      ...(kernel === undefined ? {} : { kernel }),
    });
  } finally {
    progress.end();
  }
}

export function setupCommand(): Command {
  return new Command('setup')
    .description('fetch and build what is missing: QEMU, libvfio-user, a kernel, busybox')
    .addOption(kernelOption())
    .option('--json', 'print what there is as JSON')
    .action(async ({ json, kernel }: { json?: boolean; kernel?: string }) => {
      const parts = await readyParts(undefined, kernel);
      if (json) process.stdout.write(`${JSON.stringify(parts, null, 2)}\n`);
      else process.stderr.write('set-up: everything is there\n');
    });
}
