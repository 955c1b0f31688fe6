import { execFileSync } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const root = join(import.meta.dirname, '../..');

/** Every file that git tracks, and every new one that it does not ignore. */
const files = execFileSync(
  'git',
  ['ls-files', '-z', '--cached', '--others', '--exclude-standard'],
  {
    cwd: root,
    encoding: 'utf8',
  },
)
  .split('\0')
  .filter((name) => name !== '' && statSync(join(root, name), { throwIfNoEntry: false })?.isFile());

test('no file names the host of a package registry or archive', () => {
  // Put together here, so that this file does not hold what it looks for.
  const hosts = [
    ['deb', 'debian'],
    ['ftp', 'debian'],
    ['security', 'debian'],
    ['snapshot', 'debian'],
    ['archive', 'debian'],
    ['registry', 'npmjs'],
    ['registry', 'yarnpkg'],
    ['archive', 'ubuntu'],
    ['files', 'pythonhosted'],
  ].map((labels) => labels.join('.'));
  const naming = files.filter((name) => {
    const text = readFileSync(join(root, name), 'latin1');
    return hosts.some((host) => text.includes(host));
  });
  expect(files.length).toBeGreaterThan(10);
  expect(naming).toEqual([]);
});

test('every npm script that a fresh clone is told of installs the packages first', () => {
  const { scripts } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  for (const name of ['start', 'test', 'bench', 'setup']) {
    expect(scripts[`pre${name}`], name).toBe('node scripts/bootstrap.mjs');
  }
});
