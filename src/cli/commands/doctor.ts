import { Command } from 'commander';
import { findParts } from '../../setup/find-parts.ts';
import type { PartReport } from '../../setup/parts.ts';

export function doctorCommand(): Command {
  return new Command('doctor')
    .description('list every part: found or not, its version, where it is, or what to do')
    .option('--json', 'print the list as JSON')
    .action(async ({ json }: { json?: boolean }) => {
      const reports = await findParts();
      process.stdout.write(
        json ? `${JSON.stringify(reports, null, 2)}\n` : `${reports.map(line).join('\n')}\n`,
      );
      process.exitCode = reports.some(({ found, required }) => required && !found) ? 1 : 0;
    });
}

function line(report: PartReport): string {
  const { name, found } = report;
  const state = found ? 'found  ' : report.required ? 'MISSING' : 'missing';
  const words = found
    ? [report.version, report.where].filter((word) => word !== undefined).join('  ')
    : report.remedy;
  return `${state}  ${name.padEnd(14)}  ${words}`;
}
