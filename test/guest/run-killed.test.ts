/** The command interrupted and killed at every moment: what it leaves, and what the next run finds. */
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { findProgram } from '../../src/setup/host-programs.ts';
import { RunPlace, repository, until } from '../protocol/cli/sealbus.ts';

const GONE_WITHIN_MS = 5000;

let place: RunPlace;
beforeEach(() => {
  place = new RunPlace();
});
afterEach(() => place[Symbol.dispose]());

const forLong = ['run', '--', 'sh', '-c', 'echo running; exec sleep 100'];

describe('SIGKILL', () => {
  it('of the whole process takes QEMU, controller and mount along; the next run clears the rest', async () => {
    const running = place.start(forLong);
    await running.said(/^running$/m);
    expect([place.qemu, place.controller, place.mounts.length]).not.toContain(0);
    running.child.kill('SIGKILL');
    expect(await running.ended).toMatchObject({ signal: 'SIGKILL' });
    const gone = () => place.processes.length === 0 && place.mounts.length === 0;
    await until(gone, GONE_WITHIN_MS, `no process and no mount (${place.left.join('; ')})`);

    const [stale] = place.directories;
    const { code } = await place.run(['run', '--', 'true']);
    expect([code, place.left]).toEqual([0, []]);
    expect(stale, 'the killed run could not tidy up its directory').toBeDefined();
  });

  it('of process and controller at once leaves a dead mount, which the next run detaches', async () => {
    const running = place.start(forLong);
    await running.said(/^running$/m);
    const { qemu, controller } = place;
    process.kill(controller, 'SIGKILL');
    running.child.kill('SIGKILL');
    await running.ended;
    await until(() => place.processes.length === 0, GONE_WITHIN_MS, `QEMU (${qemu}) to be gone`);
    expect(place.mounts).toHaveLength(1);

    const { code, stdout } = await place.run(['run', '--', 'echo', 'clean']);
    expect([code, `${stdout}`, place.left]).toEqual([0, 'clean\n', []]);
  });

  it('of the controller is told within seconds, and ends the run', async () => {
    const running = place.start(forLong);
    await running.said(/^running$/m);
    process.kill(place.controller, 'SIGKILL');
    const outcome = await Promise.race([running.ended, sleep(10_000, 'still running')]);
    expect(outcome).toMatchObject({ code: 1 });
    const { stderr } = await running.ended;
    expect(stderr).toMatch(/memory controller.*its end \(SIGKILL\)/);
    expect(place.left).toEqual([]);
  });

  it('of the controller as the guest boots is told too', async () => {
    const running = place.start(forLong);
    await running.said(/^booting/m);
    await sleep(500);
    process.kill(place.controller, 'SIGKILL');
    const outcome = await Promise.race([running.ended, sleep(10_000, 'still running')]);
    expect(outcome).toMatchObject({ code: 1 });
    expect((await running.ended).stderr).toMatch(/memory controller.*its end \(SIGKILL\)/);
    expect(place.left).toEqual([]);
  });
});

describe('Ctrl-C', () => {
  /** As a terminal does it: to the whole process group at once. */
  async function interrupt(moment: RegExp | number, args = forLong) {
    const running = place.start(args, { ownGroup: true, stdin: 'open' });
    if (typeof moment === 'number') await sleep(moment);
    else await running.said(moment);
    process.kill(-(running.child.pid ?? 0), 'SIGINT');
    const before = performance.now();
    const ended = await running.ended;
    return { ...ended, tookMs: performance.now() - before };
  }

  it.each([
    ['as memory is being sealed', /^starting$/m],
    ['as the guest begins to boot', /^booting/m],
    ['while a command runs', /^running$/m],
  ])('%s: exit code 130, and nothing left', async (_moment, words) => {
    const { code, signal, stderr, tookMs } = await interrupt(words);
    expect([code, signal], stderr).toEqual([130, null]);
    expect(stderr).toContain('SIGINT: stopping');
    expect(place.left).toEqual([]);
    expect(tookMs).toBeLessThan(5000);
  });

  it.each([300, 700, 1000, 2000])('%i ms after the start: nothing left', async (afterMs) => {
    const { code, signal, stderr } = await interrupt(afterMs);
    // Before Node has come to our code its own answer to SIGINT stands.
    expect(code === 130 || (signal === 'SIGINT' && stderr === ''), stderr).toBe(true);
    expect(place.left).toEqual([]);
  });

  it('twice in a row ends no worse', async () => {
    const running = place.start(forLong, { ownGroup: true, stdin: 'open' });
    await running.said(/^running$/m);
    const group = -(running.child.pid ?? 0);
    process.kill(group, 'SIGINT');
    await sleep(30);
    process.kill(group, 'SIGINT');
    expect(await running.ended).toMatchObject({ code: 130, signal: null });
    expect(place.left).toEqual([]);
  });

  it.each(['SIGTERM', 'SIGHUP'] as const)('and %s leaves nothing either', async (name) => {
    const running = place.start(forLong, { stdin: 'open' });
    await running.said(/^running$/m);
    running.child.kill(name);
    const { code } = await running.ended;
    expect(code).toBe(name === 'SIGTERM' ? 143 : 129);
    expect(place.left).toEqual([]);
  });
});

const script = findProgram('script');

describe.skipIf(script === undefined)(
  'on a terminal (script of bsdutils; skipped without it)',
  () => {
    const main = join(repository, 'src/cli/main.ts');
    const onTerminal = (command: string) => {
      const log = join(place.path, `typescript-${randomBytes(4).toString('hex')}`);
      const line = `'${process.execPath}' '${main}' ${command}`;
      const running = place.spawn([script ?? '', '-qefc', line, log], { stdin: 'open' });
      const shown = async (words: RegExp) => {
        const has = () => existsSync(log) && words.test(readFileSync(log, 'utf8'));
        await until(has, 30_000, `${words} on the terminal`);
      };
      return { ...running, shown, type: (keys: string) => running.child.stdin?.write(keys) };
    };

    it('Ctrl-C at boot ends it with 130 and leaves nothing', async () => {
      const running = onTerminal("run -- sh -c 'echo running; sleep 100'");
      await running.shown(/booting/);
      running.type('\x03');
      expect(await running.ended).toMatchObject({ code: 130 });
      expect(place.left).toEqual([]);
    });

    it('Ctrl-C while a command runs goes to the command, on a terminal of its own', async () => {
      const running = onTerminal(
        'run -- sh -c \'tty; trap "exit 5" INT; echo running; sleep 100\'',
      );
      await running.shown(/\/dev\/pts\/\d+\r+\nrunning\r+\n/);
      running.type('\x03');
      expect(await running.ended).toMatchObject({ code: 5 });
      expect(place.left).toEqual([]);
    });
  },
);
