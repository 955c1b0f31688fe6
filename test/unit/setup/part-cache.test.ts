import { spawnSync } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  cacheRoot,
  findMade,
  inTemporary,
  listMade,
  makePart,
  type PartRecipe,
  removeLeftovers,
} from '../../../src/setup/part-cache.ts';
import { SetupError } from '../../../src/setup/setup-error.ts';

const recipe: PartRecipe = { part: 'busybox', recipe: 3, needsBytes: 4096 };

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'sealbus-cache-'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

async function make(version = '1:2.0~rc1-1', content = 'whole'): Promise<{ path: string }> {
  return await makePart(root, recipe, version, async (temporary, final) => {
    writeFileSync(join(temporary, 'program'), content);
    const before = findMade(root, recipe)?.record;
    expect(before).not.toEqual({ path: join(final, 'program') }); // not before it is whole
    const path = join(final, 'program');
    return { record: { path }, files: [path] };
  });
}

test('what was made is found, under a name of part, version and recipe', async () => {
  expect(findMade(root, recipe)).toBeUndefined();
  const record = await make();
  expect(findMade(root, recipe)?.record).toEqual(record);
  expect(record.path).toBe(join(root, 'busybox-2.0_rc1-1-r3', 'program'));
  expect(readdirSync(root)).toEqual(['busybox-2.0_rc1-1-r3']);
});

test('of two versions the one made last is found', async () => {
  await make('2');
  await new Promise((resolve) => setTimeout(resolve, 5));
  await make('1');
  expect(findMade(root, recipe)?.version).toBe('1');
  expect(listMade(root, recipe).map(({ version }) => version)).toEqual(['1', '2']);
});

test('a part whose name begins as another’s is not taken for it', async () => {
  await makePart(root, { ...recipe, part: 'kernel-backports' }, '7', async () => {
    return { record: {}, files: [] };
  });
  expect(findMade(root, { ...recipe, part: 'kernel' })).toBeUndefined();
  expect(findMade(root, { ...recipe, part: 'kernel-backports' })?.version).toBe('7');
});

test('another recipe, a cut file, a lost file and a moved folder do not count', async () => {
  const { path } = await make();
  expect(findMade(root, { ...recipe, recipe: 4 })).toBeUndefined();
  expect(findMade(root, { ...recipe, part: 'qemu' })).toBeUndefined();
  truncateSync(path, 2);
  expect(findMade(root, recipe)).toBeUndefined();
  await make(); // and it is made again in its place
  expect(findMade(root, recipe)).toBeDefined();
  rmSync(path);
  expect(findMade(root, recipe)).toBeUndefined();
  await make();
  renameSync(join(root, 'busybox-2.0_rc1-1-r3'), join(root, 'busybox-9-r3'));
  expect(findMade(root, recipe)).toBeUndefined();
});

test('a build that fails leaves nothing', async () => {
  const failure = new Error('broken');
  const building = makePart(root, recipe, '1', async (temporary) => {
    writeFileSync(join(temporary, 'half'), 'half');
    throw failure;
  });
  await expect(building).rejects.toBe(failure);
  expect(readdirSync(root)).toEqual([]);
});

test('an abort after the build still leaves nothing', async () => {
  const controller = new AbortController();
  const building = makePart(
    root,
    recipe,
    '1',
    async () => {
      controller.abort(new Error('interrupted'));
      return { record: {}, files: [] };
    },
    controller.signal,
  );
  await expect(building).rejects.toThrow('interrupted');
  expect(readdirSync(root)).toEqual([]);
});

test('what a killed run left is removed, finished parts stay', async () => {
  await make();
  mkdirSync(join(root, '.making-qemu-abcdef/deb'), { recursive: true });
  await removeLeftovers(root);
  expect(readdirSync(root)).toEqual(['busybox-2.0_rc1-1-r3']);
});

test('a stamp that is damaged is no part', async () => {
  await make();
  writeFileSync(join(root, 'busybox-2.0_rc1-1-r3', 'sealbus-part.json'), '{"part": "busy');
  expect(findMade(root, recipe)).toBeUndefined();
});

test('the cache folder is XDG’s, where that is absolute', () => {
  expect(cacheRoot({ XDG_CACHE_HOME: '/var/tmp/x' })).toBe('/var/tmp/x/sealbus');
  expect(cacheRoot({ XDG_CACHE_HOME: 'relative' })).toBe(join(homedir(), '.cache/sealbus'));
  expect(cacheRoot({})).toBe(join(homedir(), '.cache/sealbus'));
});

describe('a full disk', () => {
  test('too little space is said before anything is written', async () => {
    const greedy = { ...recipe, needsBytes: Number.MAX_SAFE_INTEGER };
    const building = makePart(root, greedy, '1', () => expect.unreachable());
    await expect(building).rejects.toThrow(SetupError);
    await expect(building).rejects.toThrow(root);
    expect(readdirSync(root)).toEqual([]);
  });

  test.each(['ENOSPC', 'EDQUOT', 'EFBIG'])('%s names the path and what is needed', async (code) => {
    const failing = inTemporary(root, 'qemu', 4096, () =>
      Promise.reject(Object.assign(new Error(`${code}: write`), { code })),
    );
    await expect(failing).rejects.toThrow(SetupError);
    await expect(failing).rejects.toThrow(`1 MiB free under ${root}`);
    expect(readdirSync(root)).toEqual([]);
  });

  // In a mount namespace of its own, so that nothing is left mounted however the test ends.
  const namespace = ['--user', '--map-root-user', '--mount'];
  const canMount = spawnSync('unshare', [...namespace, 'mount', '-t', 'tmpfs', 'none', '/mnt']);

  test.skipIf(canMount.status !== 0)('on a real file system of 1 MiB', () => {
    const program = `
      import { readdirSync, writeFileSync } from 'node:fs';
      const { makePart } = await import(${JSON.stringify(new URL('../../../src/setup/part-cache.ts', import.meta.url).href)});
      const recipe = { part: 'busybox', recipe: 1, needsBytes: 4096 };
      try {
        await makePart(process.argv[1], recipe, '1', async (temporary) => {
          writeFileSync(temporary + '/large', Buffer.alloc(2 ** 21, 1));
        });
      } catch (error) {
        console.log(JSON.stringify([error.name, error.message, readdirSync(process.argv[1])]));
      }`;
    const mounted = `mount -t tmpfs -o size=1m none ${root} && exec "$0" "$@"`;
    const run = spawnSync(
      'unshare',
      [
        ...[...namespace, 'sh', '-c', mounted],
        ...[process.execPath, '--input-type=module', '-e', program, root],
      ],
      { encoding: 'utf8' },
    );
    expect(run.stderr).toBe('');
    const [name, message, left] = JSON.parse(run.stdout) as [string, string, string[]];
    expect(name).toBe('SetupError');
    expect(message).toContain(`free under ${root}`);
    expect(left).toEqual([]);
  });
});
