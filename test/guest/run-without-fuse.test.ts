/**
 * Hosts that cannot seal memory, and users that are not root. What the host lacks is taken away in a
 * mount namespace of the command alone, for which these tests have to be root.
 */
import { spawnSync } from 'node:child_process';
import { chmodSync, chownSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ensureParts } from '../../src/setup/ensure-parts.ts';
import { findProgram } from '../../src/setup/host-programs.ts';
import { planGuest } from '../../src/vm/guest.ts';
import { RunPlace, repository } from '../protocol/cli/sealbus.ts';

const NOBODY = 65534;
const root = process.getuid?.() === 0 && spawnSync('unshare', ['-m', 'true']).status === 0;
const main = join(repository, 'src/cli/main.ts');

let place: RunPlace;
beforeEach(() => {
  place = new RunPlace();
});
afterEach(() => {
  const { left } = place;
  place[Symbol.dispose]();
  expect(left).toEqual([]);
});

/** Runs `command` after `preparation`, in a mount namespace of its own. */
const inNamespace = (preparation: string, command: readonly string[], stdin = '') => {
  const script = `set -e; mount --make-rprivate /; ${preparation}; exec "$@"`;
  return place.spawn(['unshare', '-m', 'sh', '-c', script, 'sh', ...command], { stdin }).ended;
};

describe.skipIf(!root)(
  'without /dev/fuse (skipped where the tests are not run by root, with unshare)',
  () => {
    const withoutFuse = (...args: string[]) =>
      inNamespace('mount --bind /dev/null /dev/fuse', [process.execPath, main, ...args]);

    it('a run says loudly that nothing is encrypted, and why, and works', async () => {
      const { code, stdout, stderr } = await withoutFuse('run', '--', 'echo', 'up');
      expect([code, `${stdout}`], stderr).toEqual([0, 'up\n']);
      expect(stderr).toMatch(/WARNING: NOTHING IS ENCRYPTED.*since .*\/dev\/fuse/s);
    });

    it('a run that insists on sealed memory ends with words and 1', async () => {
      const { code, stdout, stderr } = await withoutFuse('run', '--memory', 'sealed', '--', 'true');
      expect([code, `${stdout}`]).toEqual([1, '']);
      expect(stderr).toMatch(/^sealbus: expected .*fuse/m);
      expect(stderr).not.toMatch(/^booting/m);
    });

    it('doctor says what sealing needs', async () => {
      const { stdout } = await inNamespace('mount --bind /dev/null /dev/fuse', [
        ...[process.execPath, main, 'doctor', '--json'],
      ]);
      const reports = JSON.parse(`${stdout}`) as {
        name: string;
        found: boolean;
        remedy?: string;
      }[];
      expect(reports.find(({ name }) => name === '/dev/fuse')).toMatchObject({
        found: false,
        remedy: expect.stringMatching(/^expected .*FUSE/),
      });
    });
  },
);

const fusermount3 = findProgram('fusermount3');
const setpriv = findProgram('setpriv');

describe.skipIf(!root || fusermount3 === undefined || setpriv === undefined)(
  'as a user who is not root (skipped without fusermount3 of fuse3, setpriv, or root to begin as)',
  () => {
    /** A /dev/fuse that everyone may open, as on any desktop. */
    const openFuse = () => {
      const dev = join(place.path, 'dev');
      mkdirSync(dev);
      const make = `mknod ${dev}/fuse c 10 229; chmod 666 ${dev}/fuse`;
      return `mount -t tmpfs tmpfs ${dev}; ${make}; mount --bind ${dev}/fuse /dev/fuse`;
    };
    /** Reading what is root's stands for an installation of the user's own. */
    const asNobody = [
      ...['setpriv', `--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups'],
      ...['--inh-caps=+dac_read_search', '--ambient-caps=+dac_read_search', '--'],
    ];
    beforeEach(() => {
      chmodSync(place.path, 0o755);
      mkdirSync(join(place.path, 'sealbus'), { mode: 0o700 });
      chownSync(join(place.path, 'sealbus'), NOBODY, NOBODY);
    });

    it('a guest runs in memory that is sealed through fusermount3', async () => {
      const parts = await ensureParts();
      const { description } = await planGuest(parts, { accelerator: 'tcg' });
      const script = join(repository, 'test/guest/unprivileged-machine.ts');
      // QEMU asks access(2) for its firmware, which knows no capability: let it be found elsewhere.
      const [, firmware = ''] = /(?:^| )-L (\S+)/.exec(parts.qemu.command.join(' ')) ?? [];
      const visible = join(place.path, 'firmware');
      mkdirSync(visible);
      const { code, stdout, stderr } = await inNamespace(
        [openFuse(), ...(firmware ? [`mount --bind '${firmware}' ${visible}`] : [])].join('; '),
        [...asNobody, process.execPath, script],
        JSON.stringify({ parts, description }).replaceAll(`"${firmware}"`, `"${visible}"`),
      );
      expect(code, stderr).toBe(0);
      const said = JSON.parse(`${stdout}`);
      expect(said).toMatchObject({
        ...{ uid: NOBODY, mode: 'sealed', mountedBy: 'fusermount3', carried: 'carried', faults: 0 },
      });
      expect(said.dramPages).toBeGreaterThan(1000);
    });
  },
);
