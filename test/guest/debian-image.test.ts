/** `sealbus image debian` from a shell: what is in the image, and what is left when it is cut short. */
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, chownSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { findProgram } from '../../src/setup/host-programs.ts';
import { ensurePrograms } from '../../src/setup/install-programs.ts';
import { RunPlace, repository } from '../protocol/cli/sealbus.ts';
import { askRoot, checkRootFileSystem } from './root-file-system.ts';

// Tests as another user need it, and images made by root do not.
if (process.getuid?.() === 0) {
  const options = { progress: () => {} };
  await ensurePrograms(['newuidmap', 'setpriv'], 'what images are made with', options);
}

const NOBODY = 65534;
/** Half a minute on a quiet host. */
const timeoutMs = 420_000;
const main = join(repository, 'src/cli/main.ts');

let place: RunPlace;
/** Where systems are put together, and where files are made. */
let temporary: string;
let home: string;

beforeEach(() => {
  place = new RunPlace();
  chmodSync(place.path, 0o755); // APT's own user and a namespace's root pass through it
  temporary = join(place.path, 'tmp');
  mkdirSync(temporary);
  chmodSync(temporary, 0o1777);
  home = join(place.path, 'home');
  mkdirSync(home, { mode: 0o700 });
});
afterEach(() => {
  const { left } = place;
  const unfinished = readdirSync(temporary);
  place[Symbol.dispose]();
  expect(left).toEqual([]);
  expect(unfinished).toEqual([]);
});

const start = (args: readonly string[]) =>
  place.start(['image', 'debian', ...args], { timeoutMs, env: { TMPDIR: temporary } });

/** What every image has, whoever made it. */
function checkImage(file: string): void {
  checkRootFileSystem(file);
  const { partitiontable } = JSON.parse(
    execFileSync('/usr/sbin/sfdisk', ['--json', file], { encoding: 'utf8' }),
  );
  expect(partitiontable.label).toBe('gpt');
  const uuid = partitiontable.partitions[2].uuid.toLowerCase();
  expect(askRoot(file, 'cat /etc/fstab')).toMatch(new RegExp(`^PARTUUID=${uuid}\\s+/\\s+ext4`));
  expect(askRoot(file, 'cat /boot/grub/grub.cfg')).toContain(`root=PARTUUID=${uuid}`);
  expect(askRoot(file, 'cat /etc/machine-id')).toBe('');
  expect(askRoot(file, 'cat /etc/initramfs-tools/modules')).toContain('virtio_iommu');
  // Files are root's and groups', whatever uids they had while the image was made.
  const owners = askRoot(file, 'ls -l /etc')
    .split('\n')
    .map((line) => line.trim().split(/\s+/)[3])
    .filter((uid) => uid !== undefined);
  expect(new Set(owners)).toEqual(new Set(['0']));
  expect(askRoot(file, 'stat /usr/bin/su')).toMatch(/Mode:\s+04755\s/);
}

describe('sealbus image debian', () => {
  it(
    'makes a sparse image as it was asked for, and says what it made',
    async () => {
      const file = join(home, 'made.img');
      const password = join(place.path, 'password');
      writeFileSync(password, 'not of this world\n');
      const flags = ['--size', '2G', '--hostname', 'sealed', '--package', 'tree', '--json'];
      const args = [file, ...flags, '--root-password-file', password];
      const { code, stdout, stderr } = await start(args).ended;
      expect(code, stderr).toBe(0);
      const { blocks, size, mode } = statSync(file);
      expect(JSON.parse(`${stdout}`)).toEqual({
        ...{ file, bytes: 2 * 2 ** 30, allocatedBytes: blocks * 512, hostname: 'sealed' },
        kernelRelease: expect.stringMatching(/^6\.12\..*-cloud-amd64$/),
        rootId: expect.stringMatching(/^[0-9a-f-]{36}$/),
      });
      expect(size).toBe(2 * 2 ** 30);
      expect(blocks * 512).toBeLessThan(size / 3);
      expect(mode & 0o777).toBe(0o600);
      checkImage(file);
      expect(askRoot(file, 'cat /etc/hostname')).toBe('sealed\n');
      expect(askRoot(file, 'cat /etc/shadow')).toMatch(/^root:\$\w+\$/m);
      expect(askRoot(file, 'stat /usr/bin/tree')).toMatch(/Type: regular/);
      for (const left of ['99mmdebstrap', 'not of this world']) {
        expect(askRoot(file, 'ls -l /etc/apt/apt.conf.d')).not.toContain(left);
        expect(stderr).not.toContain(left);
      }
      expect(readdirSync(home)).toEqual(['made.img']);
    },
    timeoutMs,
  );

  it.each([
    ['while packages come', /downloading packages/],
    ['while packages are installed', /installing the other packages/],
    ['while the disk is written', /writing the disk/],
  ])(
    'leaves nothing at a Ctrl-C %s',
    async (_when, words) => {
      const running = start([join(home, 'cut.img')]);
      await running.said(words);
      running.child.kill('SIGINT');
      const { code, stdout } = await running.ended;
      expect([code, `${stdout}`]).toEqual([130, '']);
      expect(readdirSync(home)).toEqual([]);
    },
    timeoutMs,
  );

  it(
    'says which package there is not',
    async () => {
      const args = [join(home, 'none.img'), '--package', 'no-such-package-here'];
      const { code, stderr } = await start(args).ended;
      expect([code, readdirSync(home)]).toEqual([1, []]);
      expect(stderr).toMatch(
        /^sealbus: expected packages of Debian trixie, got no-such-package-here/m,
      );
    },
    timeoutMs,
  );
});

describe.skipIf(process.getuid?.() !== 0 || spawnSync('unshare', ['-m', 'true']).status !== 0)(
  'on a disk that is full (skipped where the tests are not run by root, with unshare)',
  () => {
    const withSmall = (path: string, megabytes: number, args: readonly string[]) => {
      mkdirSync(path);
      // What it leaves there is said on stdout.
      const script =
        `set -e; mount --make-rprivate /; mount -t tmpfs -o size=${megabytes}m tmpfs ${path}; ` +
        `code=0; "$@" || code=$?; ls -A ${path}; exit $code`;
      const command = ['unshare', '-m', 'sh', '-c', script, 'sh', ...args];
      return place.spawn(command, { timeoutMs, env: { TMPDIR: temporary } }).ended;
    };
    const image = (file: string) => [process.execPath, main, 'image', 'debian', file];

    it(
      'names the directory where the system is put together',
      async () => {
        const small = join(place.path, 'small');
        const command = ['env', `TMPDIR=${small}`, ...image(join(home, 'a.img'))];
        const { code, stdout, stderr } = await withSmall(small, 150, command);
        expect([code, `${stdout}`], stderr).toEqual([1, '']);
        expect(stderr).toMatch(new RegExp(`^sealbus: expected room in ${small} .*TMPDIR`, 'm'));
      },
      timeoutMs,
    );

    it(
      'names the directory where the image would be',
      async () => {
        const small = join(place.path, 'small');
        const { code, stdout, stderr } = await withSmall(small, 100, image(join(small, 'a.img')));
        expect([code, `${stdout}`], stderr).toEqual([1, '']);
        expect(stderr).toMatch(new RegExp(`^sealbus: expected room in ${small} `, 'm'));
      },
      timeoutMs,
    );
  },
);

const able =
  process.getuid?.() === 0 &&
  findProgram('setpriv') !== undefined &&
  findProgram('newuidmap') !== undefined &&
  spawnSync('unshare', ['-m', 'true']).status === 0;

describe.skipIf(!able)(
  'as a user who is not root (skipped without root to begin as, or unshare)',
  () => {
    /** In a mount namespace where nobody has subordinate uids, or not; a home that is nobody's own. */
    const asNobody = (subordinate: string, args: readonly string[]) => {
      chownSync(home, NOBODY, NOBODY);
      const list = join(place.path, 'subordinate');
      writeFileSync(list, subordinate, { mode: 0o644 });
      const script = [
        'set -e; mount --make-rprivate /',
        `mount --bind ${list} /etc/subuid; mount --bind ${list} /etc/subgid`,
        `cd ${home}; exec "$@"`,
      ].join('; ');
      return place.spawn(
        [
          ...['unshare', '-m', 'sh', '-c', script, 'sh'],
          // Reading what is root's stands for an installation of the user's own.
          ...['setpriv', `--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups'],
          ...['--inh-caps=+dac_read_search', '--ambient-caps=+dac_read_search', '--'],
          ...['env', `HOME=${home}`, `XDG_CACHE_HOME=${join(home, 'cache')}`],
          ...[process.execPath, main, ...args],
        ],
        { timeoutMs, env: { TMPDIR: temporary } },
      );
    };

    it(
      'makes the same image in a user namespace, in a directory that is closed to others',
      async () => {
        const file = join(home, 'made.img');
        const { code, stderr } = await asNobody('nobody:200000:65536\n', [
          ...['image', 'debian', file],
        ]).ended;
        expect(code, stderr).toBe(0);
        expect(statSync(file)).toMatchObject({ uid: NOBODY, gid: NOBODY });
        expect(statSync(file).mode & 0o777).toBe(0o600);
        checkImage(file);
        expect(readdirSync(home).sort()).toEqual(['cache', 'made.img']);
      },
      timeoutMs,
    );

    it(
      'leaves nothing that is owned by subordinate uids at a Ctrl-C',
      async () => {
        const file = join(home, 'cut.img');
        const running = asNobody('nobody:200000:65536\n', ['image', 'debian', file]);
        await running.said(/installing the other packages/);
        running.child.kill('SIGINT');
        const { code } = await running.ended;
        expect(code).toBe(130);
        expect(readdirSync(home)).toEqual(['cache']);
      },
      timeoutMs,
    );

    it(
      'says what to do where there are no subordinate uids',
      async () => {
        const { code, stderr } = await asNobody('', ['image', 'debian', 'x.img']).ended;
        expect(code).toBe(1);
        expect(stderr).toMatch(/^sealbus: expected .*subordinate uids.*--add-subuids/m);
      },
      timeoutMs,
    );
  },
);
