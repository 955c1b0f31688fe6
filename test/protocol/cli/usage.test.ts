/** What the command says to words that it does not take: on stderr, with an exit code that is not 0. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { RunPlace } from './sealbus.ts';

const place = new RunPlace();
const scratch = mkdtempSync(join(tmpdir(), 'sealbus-usage-'));
afterEach(() => {
  expect(place.left).toEqual([]);
});
afterAll(() => {
  place[Symbol.dispose]();
  rmSync(scratch, { recursive: true, force: true });
});

const noDevice = join(scratch, 'no-device.ts');
writeFileSync(noDevice, 'export class NoDevice {}\n');
const throwing = join(scratch, 'throwing.ts');
writeFileSync(throwing, "throw new Error('thrown by the module');\n");
const carriageReturn = join(scratch, 'password');
writeFileSync(carriageReturn, 'not of this world\r\n');
const file = (name: string) => join(scratch, name);

describe('refused before anything starts', () => {
  it.each([
    ['an unknown command', ['flying'], /unknown command.*flying/],
    ['an unknown flag', ['run', '--fast', '--', 'true'], /unknown option.*--fast/],
    ['an unknown flag of demo', ['demo', '--fast'], /unknown option.*--fast/],
    ['an unknown flag of doctor', ['doctor', '--fast'], /unknown option.*--fast/],
    ['a flag without its value', ['run', '--size'], /--size.*argument missing/],
    ...[
      '',
      '0',
      '-1',
      '12',
      '63M',
      '1.5G',
      '512X',
      '65M1',
      '0x4000000',
      '1e9',
      '513G',
      '99999999999G',
    ].map(
      (size) =>
        [
          `a size of '${size}'`,
          ['run', '--size', size, '--', 'true'],
          /--size.*expected/s,
        ] as const,
    ),
    ...['hurd', '6.12', ''].map(
      (kernel) =>
        [
          `a kernel called '${kernel}'`,
          ['run', '--kernel', kernel, '--', 'true'],
          /--kernel.*expected the name of a kernel.*trixie-backports/s,
        ] as const,
    ),
    [
      'a kernel that was not built',
      ['run', '--kernel', scratch, '--', 'true'],
      /build directory of a kernel at .*kernel\.release.*ENOENT/,
    ],
    ['a kernel for a disk', ['run', '--kernel', 'trixie', '--disk', throwing], /no --kernel with/],
    ['no CPU', ['run', '--cpus', '0', '--', 'true'], /--cpus.*whole number/s],
    ['a part of a CPU', ['run', '--cpus', '1.5', '--', 'true'], /--cpus.*whole number/s],
    ['no time', ['run', '--timeout', '0', '--', 'true'], /--timeout.*seconds/s],
    ['a time that is none', ['run', '--timeout', 'soon', '--', 'true'], /--timeout.*seconds/s],
    ['an unknown memory', ['run', '--memory', 'secret', '--', 'true'], /--memory.*sealed/s],
    ['an unknown accelerator', ['run', '--accel', 'warp', '--', 'true'], /--accel.*tcg/s],
    ['a place that is none', ['run', '--device', 'edu@up:there', '--', 'true'], /requester ID/],
    ['a place off bus 0', ['run', '--device', 'edu@01:04.0', '--', 'true'], /bus 0/],
    [
      "the host bridge's place",
      ['run', '--device', 'edu@00:00.0', '--', 'true'],
      /00:00\.0.*taken/,
    ],
    ['a place twice', twice('edu@00:05.0'), /00:05\.0.*taken/],
    ['a device that is not there', ['run', '--device', file('none.ts'), '--', 'true'], /none\.ts/],
    ['a module without a device', ['run', '--device', noDevice, '--', 'true'], /PciFunction/],
    ['a class that is not there', ['run', '--device', `${noDevice}#A`, '--', 'true'], /\bA\b/],
    ['a module that throws', ['run', '--device', throwing, '--', 'true'], /thrown by the module/],
    ['a file that is not there', ['run', '--file', '/none:/root/x', '--', 'true'], /\/none/],
    ['a file without a place', ['run', '--file', '/etc/passwd', '--', 'true'], /HOST-PATH/],
    ['a disk that is not there', ['run', '--disk', file('no.img')], /no\.img.*no such file/],
    ['a directory for a disk', ['run', '--disk', scratch], /got a directory/],
    ['a disk with an unknown option', ['run', '--disk', 'a.img,rw'], /--disk.*FILE,ro/s],
    [
      'kernel arguments for a disk',
      ['run', '--disk', throwing, '--append', 'quiet'],
      /no --append with --disk/,
    ],
    ['a firmware without a disk', ['run', '--firmware', 'uefi'], /--disk with --firmware/],
    ['a snapshot of no disk', ['run', '--snapshot', '--', 'true'], /--disk with --snapshot/],
    [
      'a file for a console',
      ['run', '--disk', throwing, '--file', '/etc/passwd:/root/x'],
      /a command with --disk and --file/,
    ],
    ['an image of an unknown system', ['image', 'hurd'], /unknown command.*hurd/],
    ...['512M', '1048577K', '4T', 'big'].map(
      (size) =>
        [`an image of ${size}`, ['image', 'debian', '--size', size], /--size.*expected/s] as const,
    ),
    [
      'an image nowhere',
      ['image', 'debian', file('none/debian.img')],
      /expected a directory .*none for the image, got none/,
    ],
    ['an image over a file', ['image', 'debian', throwing], /expected no file .*--force/],
    ['an image over a directory', ['image', 'debian', '--force', scratch], /something else/],
    [
      'a host name with a dot',
      ['image', 'debian', file('a.img'), '--hostname', 'a.b'],
      /host name.*'a\.b'/,
    ],
    [
      'a package with a space',
      ['image', 'debian', file('a.img'), '--package', 'fio nvme'],
      /name of a Debian package, got "fio nvme"/,
    ],
    [
      'a password file that is empty',
      ['image', 'debian', file('a.img'), '--root-password-file', '/dev/null'],
      /password of one line/,
    ],
    [
      'a password file that is not there',
      ['image', 'debian', file('a.img'), '--root-password-file', file('no-password')],
      /expected a file with root's password.* got .*no-password/,
    ],
    [
      'a password file with lines of another system',
      ['image', 'debian', file('a.img'), '--root-password-file', carriageReturn],
      /password of one line, .*without CR/,
    ],
    ['a kernel argument with a space', ['run', '--append', 'a b', '--', 'true'], /without spaces/],
  ] as readonly (readonly [string, readonly string[], RegExp])[])('%s', async (_n, args, words) => {
    const { code, signal, stdout, stderr } = await place.run(args);
    expect([code, signal]).toEqual([1, null]);
    expect(`${stdout}`).toBe('');
    expect(stderr).toMatch(words);
    expect(stderr).toMatch(/^sealbus: /m);
    expect(stderr).not.toContain('not of this world');
    expect(stderr, 'a stack is for who writes sealbus').not.toMatch(/^ +at .*\.ts:\d+/m);
  });
});

function twice(device: string): string[] {
  return ['run', '--device', device, '--device', device, '--', 'true'];
}

describe('answered', () => {
  it('--help and --version, on stdout', async () => {
    const help = await place.run(['--help']);
    expect([help.code, help.stderr]).toEqual([0, '']);
    for (const name of ['run', 'image', 'demo', 'doctor', 'setup'])
      expect(`${help.stdout}`).toContain(name);
    expect(await place.run(['--version'])).toMatchObject({ code: 0, stderr: '' });
  });

  it.each(['sealed', 'plain'])(
    '--dry-run with %s memory: the line, and nothing started',
    async (memory) => {
      const running = place.start(['run', '--dry-run', '--memory', memory, '--size', '128M']);
      const seen = new Set<string>();
      const watch = setInterval(() => {
        for (const { name } of place.processes) seen.add(name);
      }, 5);
      const { code, stdout } = await running.ended;
      clearInterval(watch);
      expect(code).toBe(0);
      const line = `${stdout}`;
      expect(line).toMatch(/"driver":"vfio-user-pci","addr":"4\.0"/);
      expect(line).toContain('-m 128M');
      const backend = memory === 'sealed' ? 'memory-backend-file' : 'memory-backend-memfd';
      expect(line).toContain(
        `"qom-type":"${backend}","id":"ram","size":${128 * 2 ** 20},"share":true`,
      );
      expect([...seen].filter((name) => /-machine|sealbus-memory|controller/.test(name))).toEqual(
        [],
      );
    },
  );
});
