import { relative } from 'node:path';
import { Command } from 'commander';
import { makeProject } from '../../scaffold/make-project.ts';

export function initCommand(): Command {
  return new Command('init')
    .description('make a folder with a device, a driver, tests of both and a CI file')
    .argument('[directory]', 'one that is empty, or is not there yet', '.')
    .option('--name <name>', 'of package, device and driver (default: the directory’s)')
    .option('--json', 'print what was made as one JSON object')
    .action((directory: string, { name, json }: { name?: string; json?: boolean }) => {
      const made = makeProject(directory, name);
      process.stdout.write(json ? `${JSON.stringify(made)}\n` : `${made.directory}\n`);
      const enter = relative(process.cwd(), made.directory);
      const next = [...(enter === '' ? [] : [`cd ${enter}`]), 'npm install', 'npm test'];
      process.stderr.write(`sealbus: made ${made.name}; now: ${next.join(' && ')}\n`);
    });
}
