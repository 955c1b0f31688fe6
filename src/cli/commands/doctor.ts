import { Command } from 'commander';
import { probeFuse } from '../../memory/fuse/fuse-mount.ts';
import { FuseUnavailable } from '../../memory/fuse/fuse-unavailable.ts';
import { findParts } from '../../setup/find-parts.ts';
import type { PartReport } from '../../setup/parts.ts';

export function doctorCommand(): Command {
  return new Command('doctor')
    .description('list every part: found or not, its version, where it is, or what to do')
    .option('--json', 'print the list as JSON')
    .action(async ({ json }: { json?: boolean }) => {
      const reports = await Promise.all((await findParts()).map(sealing));
      process.stdout.write(
        json ? `${JSON.stringify(reports, null, 2)}\n` : `${reports.map(line).join('\n')}\n`,
      );
      process.exitCode = reports.some(({ found, required }) => required && !found) ? 1 : 0;
    });
}

/** That /dev/fuse opens does not say that it mounts: a run tries the same before it seals memory. */
async function sealing(report: PartReport): Promise<PartReport> {
  if (report.name !== '/dev/fuse' || !report.found) return report;
  try {
    await probeFuse();
    return report;
  } catch (error) {
    if (!(error instanceof FuseUnavailable)) throw error;
    const { name, kind, required } = report;
    return { name, kind, required, found: false, remedy: error.message };
  }
}

function line(report: PartReport): string {
  const { name, found } = report;
  const state = found ? 'found  ' : report.required ? 'MISSING' : 'missing';
  const words = found
    ? [report.version, report.where].filter((word) => word !== undefined).join('  ')
    : report.remedy;
  return `${state}  ${name.padEnd(16)}  ${words}`;
}
