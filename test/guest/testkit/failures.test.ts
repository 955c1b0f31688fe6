/**
 * What becomes of a test whose guest, driver, device or host fails: it fails by that name, in bounded
 * time, leaves its evidence, and nothing running. The tests that fail are in failing/.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readTrace } from '../../../src/trace/read-trace.ts';
import { until } from '../../protocol/cli/sealbus.ts';
import { ChildVitest, type ReportedTest } from './child-vitest.ts';

/** By the name of the test: what its failure has to say, in this order. */
const failures: Readonly<Record<string, readonly (string | RegExp)[]>> = {
  'the kernel complains of a warning, while the test passes': [
    'expected a guest whose kernel does not complain, got warning',
    'trouble was asked for',
    /WARNING: .*trouble\.c:\d+/,
  ],
  'the kernel complains of an oops': [
    'got oops',
    'BUG: kernel NULL pointer dereference, address: 0000000000000008',
    'trouble_init',
  ],
  'the kernel complains of a general protection fault': ['general protection fault'],
  'the kernel complains of sleep under a lock': ['scheduling while atomic: insmod'],
  'the kernel complains of a hung task': ['hung task', 'task trouble', 'sleep_forever'],
  'a driver that panics the guest': ['panicked', 'trouble was asked for', 'trouble_init'],
  'one CPU a driver that hangs the guest': [
    "expected 'insmod /lib/modules/trouble.ko what=hang' in the guest to end within 4 s",
    'its kernel hangs',
  ],
  'a guest that powers itself off': ['ended with exit code 0', 'Power down'],
  'an agent that dies': ['panicked', 'Attempted to kill init', 'init[1]: segfault'],
  'QEMU killed under a command': ['ended by SIGKILL'],
  'QEMU killed, while the test passes': ['ended by SIGKILL'],
  'a memory controller killed under a command': [
    'expected the memory controller to serve until it is stopped, got its end (SIGKILL)',
  ],
  'a command that takes too long': [
    "expected 'echo begun; sleep 60' in the guest to end within 1 s",
    'the guest answers',
    'begun',
  ],
  'a test that takes too long': [
    'timed out in 8000ms',
    "it waited for 'sleep 60' in the guest to end",
  ],
  'a console that says nothing of it': ['expected the console to say /never said/'],
  'a guest that never boots is given up': ["expected the guest's init to be ready within 8 s"],
  'a boot that takes too long for its test': ['timed out in 6000ms', 'its guest to boot'],
  'a guest without init panics at once': ['panicked', 'Unable to mount root fs'],
  'a kernel without the module says which': ['the module drivers/nowhere/nothing of the kernel'],
  'a driver that does not compile is shown where': [
    'expected test/guest/testkit/failing/broken/broken.c to build, got 1 error',
    'broken.c:6:16: error: implicit declaration of function',
    /at \/.*\/broken\/broken\.c:6:16/,
  ],
  'a driver that is not there is named': ['failing/nowhere.c, got nothing there'],
  'a device with a bug fails a test that passes': ['this device has a bug'],
};

describe('tests that fail', () => {
  let child: ChildVitest;
  let report: ReadonlyMap<string, ReportedTest>;
  let code: number | string;

  beforeAll(async () => {
    child = new ChildVitest('guests.failing.ts');
    code = await child.exited;
    report = child.report();
  });
  afterAll(() => child?.[Symbol.dispose]());

  const message = (name: string) => report.get(name)?.message ?? '';
  const directory = (name: string) => /^Kept in (.+?): /m.exec(message(name))?.[1] ?? '';

  it('are all that fail, and vitest says so', () => {
    const failed = [...report].filter(([, { status }]) => status === 'failed');
    expect(failed.map(([name]) => name).sort()).toEqual(Object.keys(failures).sort());
    expect(code).toBe(1);
  });

  it.each(Object.entries(failures))('%s: names the cause', (name, words) => {
    for (const word of words) {
      if (typeof word === 'string') expect(message(name)).toContain(word);
      else expect(message(name)).toMatch(word);
    }
  });

  it.each(Object.keys(failures))('%s: keeps its evidence where it says', (name) => {
    const path = directory(name);
    expect(path.startsWith(child.evidence)).toBe(true);
    expect(readTrace(join(path, 'trace.ndjson'))).toMatchObject({ cut: false });
    const [, seed, pattern] =
      /^SEALBUS_SEED=(0x[0-9a-f]{8}) npx vitest run \S+guests\.failing\.ts -t (.+)\n$/.exec(
        readFileSync(join(path, 'repeat.sh'), 'utf8'),
      ) ?? [];
    expect(message(name)).toContain(`SEALBUS_SEED=${seed}`);
    expect(pattern).toContain(name.split(' ').at(-1));
  });

  it('leaves the console where the guest cannot tell any more, and the kernel’s log where it can', () => {
    const read = (name: string, file: string) => readFileSync(join(directory(name), file), 'utf8');
    expect(read('a driver that panics the guest', 'console.log')).toContain('Kernel panic');
    expect(read('a guest that never boots is given up', 'console.log')).toMatch(/^\[ +\d/m);
    const log = read('the kernel complains of an oops', 'kernel.log');
    expect(log).toContain('Linux version');
    expect(log).toContain('NULL pointer dereference');
    expect(read('QEMU killed under a command', 'qemu.sh')).toMatch(
      /-device '\{"driver":"vfio-user-pci"/,
    );
  });

  it('leaves nothing of tests that pass', () => {
    for (const name of ['passes', 'the kernel complains of a warning that is allowed']) {
      expect(report.get(name)).toMatchObject({ status: 'passed' });
    }
    expect(readdirSync(child.evidence)).toHaveLength(Object.keys(failures).length);
  });

  it('leaves no process', async () => {
    await until(() => child.processes().length === 0, 5000, 'the end of all processes');
  });
});

describe.each(['SIGINT', 'SIGTERM', 'SIGKILL'] as const)('vitest ended by %s', (signal) => {
  it('takes its guests along', async () => {
    using child = new ChildVitest('sleeps.failing.ts');
    await until(() => existsSync(join(child.directory, 'up')), 60_000, 'a guest that is up');
    expect(child.processes().length).toBeGreaterThan(2);
    child.interrupt(signal);
    await child.exited;
    await until(() => child.processes().length === 0, 5000, 'the end of all processes');
    expect(readFileSync('/proc/mounts', 'utf8')).not.toContain(child.runtime);
  });
});
