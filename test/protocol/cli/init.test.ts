/** `sealbus init`: what it makes, and that what it refuses to make leaves nothing. */
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { RunPlace, repository } from './sealbus.ts';

const place = new RunPlace();
let scratch: string;
beforeEach(() => {
  scratch = realpathSync(mkdtempSync(join(tmpdir(), 'sealbus-init-')));
});
afterEach(() => rmSync(scratch, { recursive: true, force: true }));
afterAll(() => place[Symbol.dispose]());

const init = (...args: string[]) => place.run(['init', ...args], { cwd: scratch });

/** Paths of all files under it. */
function files(directory: string): string[] {
  return readdirSync(directory, { recursive: true, encoding: 'utf8' })
    .filter((name) => lstatSync(join(directory, name)).isFile())
    .sort();
}

describe('made', () => {
  it('a folder with a device, a driver, tests of both, and what goes with them', async () => {
    const { code, stdout, stderr } = await init('demo');
    expect([code, `${stdout}`]).toEqual([0, `${join(scratch, 'demo')}\n`]);
    expect(stderr).toMatch(/now: cd demo && npm install && npm test\n$/);
    expect(files(join(scratch, 'demo'))).toEqual(
      [
        ...['.github/workflows/test.yml', '.gitignore', 'README.md', 'package.json'],
        ...['driver/demo.c', 'src/demo.ts', 'test/demo.client.test.ts', 'test/demo.guest.test.ts'],
        ...['tsconfig.json', 'vitest.config.ts'],
      ].sort(),
    );
  });

  it('under a name of its own, in every file, with nothing of the template’s left', async () => {
    const { code, stdout } = await init('made/here', '--name', 'my-device', '--json');
    expect(code).toBe(0);
    const directory = join(scratch, 'made/here');
    const made = JSON.parse(`${stdout}`) as { name: string; directory: string; files: string[] };
    expect(made).toMatchObject({ name: 'my-device', directory });
    expect(made.files.toSorted()).toEqual(files(directory));
    expect(made.files).toContain('driver/my_device.c');
    for (const name of made.files) {
      const text = readFileSync(join(directory, name), 'utf8');
      expect(`${name} ${text}`).not.toMatch(/widget/i);
      expect(text).toMatch(/\n$/);
    }
    const driver = readFileSync(join(directory, 'driver/my_device.c'), 'utf8');
    expect(driver).toMatch(/^\/\/ SPDX-License-Identifier: GPL-2\.0\n/);
  });

  it('depending on this checkout by its path, and on the same versions of the rest', async () => {
    await init('demo');
    const read = (path: string) => JSON.parse(readFileSync(path, 'utf8'));
    const { name, scripts, devDependencies } = read(join(scratch, 'demo/package.json'));
    expect([name, scripts.test]).toEqual(['demo', 'sealbus test']);
    const [, path] = /^file:(.*)$/.exec(devDependencies.sealbus) ?? [];
    expect(realpathSync(resolve(scratch, 'demo', path ?? 'none'))).toBe(realpathSync(repository));
    const own = read(join(repository, 'package.json'));
    const versions = { ...own.dependencies, ...own.devDependencies };
    for (const other of Object.keys(devDependencies).filter((one) => one !== 'sealbus')) {
      expect([other, devDependencies[other]]).toEqual([other, versions[other]]);
    }
  });

  it('in the working directory, also where version control is there already', async () => {
    const project = join(scratch, 'project');
    mkdirSync(join(project, '.git'), { recursive: true });
    const { code, stderr } = await place.run(['init'], { cwd: project });
    expect([code, stderr]).toEqual([0, expect.stringMatching(/now: npm install && npm test/)]);
    expect(existsSync(join(project, 'src/project.ts'))).toBe(true);
  });
});

describe('refused, with nothing left', () => {
  it('a directory that has something in it', async () => {
    for (const name of ['a', 'b', 'c', 'd']) writeFileSync(join(scratch, name), '');
    const { code, stdout, stderr } = await init('.', '--name', 'demo');
    expect([code, `${stdout}`]).toEqual([1, '']);
    expect(stderr).toMatch(/expected an empty directory.* got one with 4 entries: a, b, c, …/);
    expect(files(scratch)).toEqual(['a', 'b', 'c', 'd']);
  });

  it.each([
    ['My Demo', []],
    ['demo', ['--name', 'Demo']],
    ['demo', ['--name', '']],
    ['vitest', []],
  ] as const)('a name that does not do: %s %j', async (directory, flags) => {
    const { code, stderr } = await init(directory, ...flags);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^sealbus: expected a name .*--name\.$/m);
    expect(readdirSync(scratch)).toEqual([]);
  });

  it('a directory below a file', async () => {
    writeFileSync(join(scratch, 'file'), 'whole');
    const { code, stderr } = await init('file/demo');
    expect(code).toBe(1);
    expect(stderr).toMatch(/can be made and written to at .*file\/demo, got ENOTDIR/);
    expect(readFileSync(join(scratch, 'file'), 'utf8')).toBe('whole');
  });

  // In a mount namespace of its own, so that nothing is left mounted however the test ends.
  const mounting = ['unshare', '--user', '--map-root-user', '--mount', 'sh', '-c'];
  const mount = (options: string) =>
    `mount -t tmpfs -o ${options} none "$0" && cd "$0" && { "$@"; code=$?; ls -A; exit $code; }`;
  const [program = '', ...args] = mounting;
  const canMount = spawnSync(program, [...args, mount('size=1m'), tmpdir(), 'true']).status === 0;
  const sealbus = [process.execPath, join(repository, 'src/cli/main.ts')];

  it.skipIf(!canMount).each([
    ['one that may not be written to', 'ro', /EROFS/],
    ['one that fills up', 'size=8k', /ENOSPC/],
  ])('%s', async (_n, options, words) => {
    const command = [...mounting, mount(options), scratch, ...sealbus, 'init', 'demo'];
    const { code, stdout, stderr } = await place.spawn(command).ended;
    expect([code, `${stdout}`]).toEqual([1, '']);
    expect(stderr).toMatch(words);
    expect(stderr).toMatch(/nothing was left there\.$/m);
  });
});
