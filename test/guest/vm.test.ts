/** The guest from outside: commands with their streams and exit codes, and every way to end. */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { PassThrough, Readable, Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ensureParts } from '../../src/setup/ensure-parts.ts';
import type { Parts } from '../../src/setup/parts.ts';
import { sessionsMax } from '../../src/vm/agent-protocol.ts';
import { bootGuest } from '../../src/vm/guest.ts';
import type { VirtualMachine } from '../../src/vm/virtual-machine.ts';
import { GuestPanicError, QemuEndedError, VmTimeoutError } from '../../src/vm/vm-error.ts';

let parts: Parts;
beforeAll(async () => {
  parts = await ensureParts();
});

const sh = (script: string, ...args: string[]) => ['sh', '-c', script, 'sh', ...args];
const running = (pid: number) => {
  // A zombie is gone as far as we care: only its parent has not looked yet.
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
};

describe('a command in the guest', () => {
  let vm: VirtualMachine;
  beforeAll(async () => {
    vm = await bootGuest(parts);
  });
  afterAll(async () => {
    await vm?.stop();
  });

  it('runs under the stock kernel', async () => {
    expect(vm.kernelRelease).toBe(parts.kernel.release);
    expect((await vm.check(['uname', '-r'])).trim()).toBe(parts.kernel.release);
    expect(vm.bootSeconds).toBeGreaterThan(0);
  });

  it('has stdout and stderr apart, and its own exit code', async () => {
    const end = await vm.exec(sh('echo out; echo err >&2; exit 42'));
    expect(end).toMatchObject({ exitCode: 42, ended: 'exited' });
    expect([`${end.stdout}`, `${end.stderr}`]).toEqual(['out\n', 'err\n']);
  });

  it('takes its arguments, its environment and its directory as they are', async () => {
    const odd = ['', 'two words', "it's", '$HOME', 'ünï\n', '*'];
    const { stdout } = await vm.exec(sh('pwd; echo "$ODD"; printf "%s\\0" "$@"', ...odd), {
      cwd: '/tmp',
      env: { ODD: 'a=b c' },
    });
    expect(`${stdout}`).toBe(`/tmp\na=b c\n${odd.join('\0')}\0`);
  });

  it.each([
    ['is not there', ['no-such-program'], 127],
    ['is no program', ['/etc/passwd'], 126],
    ['ends by a signal', sh('kill -9 $$'), 137],
  ])('that %s has the exit code that a shell would give', async (_name, command, exitCode) => {
    expect((await vm.exec(command)).exitCode).toBe(exitCode);
  });

  it('carries bytes of any value both ways, many times the window', async () => {
    const bytes = randomBytes(3_000_001);
    const pieces = [bytes.subarray(0, 7), Buffer.alloc(0), bytes.subarray(7)];
    const { stdout } = await vm.exec(['cat'], { stdin: Readable.from(pieces) });
    expect(stdout.equals(bytes)).toBe(true);
  });

  it('writes and reads files', async () => {
    const bytes = randomBytes(70_000);
    await vm.writeFile('/tmp/a file', bytes);
    expect((await vm.readFile('/tmp/a file')).equals(bytes)).toBe(true);
    await expect(vm.readFile('/tmp/none')).rejects.toThrow(/No such file/);
  });

  it('ends where stdin is not read, and where it does not end', async () => {
    expect(await vm.exec(['true'], { stdin: Buffer.alloc(2_000_000) })).toMatchObject({
      exitCode: 0,
    });
    const open = new PassThrough();
    open.write('a\n');
    expect(`${(await vm.exec(['head', '-n', '1'], { stdin: open })).stdout}`).toBe('a\n');
  });

  it('is held up by a reader that does not read, and holds up no other', async () => {
    let release: () => void = () => {};
    let got = 0;
    const slow = new Writable({
      highWaterMark: 1,
      write(chunk: Buffer, _encoding, done) {
        got += chunk.length;
        if (got < 300_000 && got === chunk.length) release = done;
        else done();
      },
    });
    const held = vm.start(sh('head -c 1000000 /dev/zero'), { stdout: slow });
    await sleep(200);
    expect(got).toBeLessThanOrEqual(262_144);
    expect((await vm.exec(['echo', 'free'])).exitCode).toBe(0);
    release();
    expect((await held.ended).exitCode).toBe(0);
    expect(got).toBe(1_000_000);
  });

  it('is told of a reader that left as by a broken pipe', async () => {
    const gone = new Writable({
      write(_chunk, _encoding, done) {
        done(new Error('EPIPE'));
      },
    });
    const end = await vm.run(['yes'], { stdout: gone, timeoutMs: 20_000 });
    expect(end).toMatchObject({ ended: 'signalled', exitCode: 128 + 13 });
  });

  it('is ended after its time with exit code 124, even where it ignores that', async () => {
    for (const script of ['sleep 100', 'trap "" TERM; while :; do sleep 1; done']) {
      const end = await vm.exec(sh(script), { timeoutMs: 200 });
      expect(end).toMatchObject({ exitCode: 124, ended: 'timed-out' });
    }
    await sleep(200);
    expect((await vm.exec(['pidof', 'sleep'])).exitCode).toBe(1);
  });

  it('is interrupted by a signal', async () => {
    const stdout = new PassThrough();
    const command = vm.start(sh('trap "exit 7" INT; echo ready; while :; do sleep 0.1; done'), {
      stdout,
    });
    await new Promise((resolve) => stdout.once('data', resolve));
    command.signal(2);
    expect((await command.ended).exitCode).toBe(7);
  });

  it('has a terminal of the size given, where one is asked for', async () => {
    const stdin = new PassThrough();
    const stdout = new PassThrough();
    let said = '';
    stdout.on('data', (chunk) => {
      said += chunk;
    });
    const command = vm.start(sh('tty; stty size; read x; stty size; read y; echo "got $y"'), {
      terminal: { rows: 31, columns: 97 },
      stdin,
      stdout,
    });
    while (!said.includes('31 97')) await sleep(10);
    command.resize(12, 34);
    stdin.write('\n');
    while (!said.includes('12 34')) await sleep(10);
    stdin.write('text\n');
    expect((await command.ended).exitCode).toBe(0);
    expect(said).toMatch(/\/dev\/pts\/\d+\r\n31 97\r\n/);
    expect(said).toContain('got text\r\n');
  });

  it('runs beside others, up to a bound that is named', async () => {
    const commands = Array.from({ length: sessionsMax }, (_, i) =>
      vm.exec(sh(`sleep 0.3; echo ${i}`)),
    );
    await expect(vm.exec(['true'])).rejects.toThrow(/at most 16 commands at once/);
    const ends = await Promise.all(commands);
    expect(ends.map(({ stdout }) => Number(stdout))).toEqual(ends.map((_, i) => i));
  });

  it('is not waited for beyond its end, by what it left behind', async () => {
    const end = await vm.exec(sh('sleep 100 & echo done'), { timeoutMs: 5000 });
    expect(end).toMatchObject({ exitCode: 0, ended: 'exited' });
    expect(`${end.stdout}`).toBe('done\n');
    await vm.exec(['killall', 'sleep']);
  });
});

describe('an end', () => {
  it('by stop leaves no process, and may be asked for again', async () => {
    const vm = await bootGuest(parts);
    await vm.stop();
    expect(running(vm.pid)).toBe(false);
    await vm.stop();
    await expect(vm.exec(['true'])).rejects.toBeInstanceOf(QemuEndedError);
  });

  it('by powering off is the guest’s own', async () => {
    const vm = await bootGuest(parts);
    await vm.powerOff();
    expect(running(vm.pid)).toBe(false);
    expect(vm.console.log).toContain('reboot: Power down');
  });

  it('by a panic gives exit code 255, and the console’s words afterwards', async () => {
    await using vm = await bootGuest(parts);
    const end = await vm.exec(sh('echo c > /proc/sysrq-trigger; sleep 100'));
    expect(end).toMatchObject({ exitCode: 255, ended: 'panicked' });
    await vm.ended;
    const error = await vm.exec(['true']).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(GuestPanicError);
    expect(`${error}`).toMatch(/sysrq triggered crash/);
  });

  it('of QEMU by a signal is told, with its command', async () => {
    await using vm = await bootGuest(parts);
    const command = vm.run(['sleep', '100']);
    process.kill(vm.pid, 'SIGKILL');
    await expect(command).rejects.toThrow(/was ended by SIGKILL[\s\S]*-machine q35/);
  });

  it('of QEMU, stopped, comes all the same', async () => {
    const vm = await bootGuest(parts);
    process.kill(vm.pid, 'SIGSTOP');
    await vm.stop();
    expect(running(vm.pid)).toBe(false);
  });

  it('of this process by SIGKILL takes QEMU along', async () => {
    const child = await parent();
    child.process.kill('SIGKILL');
    for (let i = 0; i < 100 && running(child.qemu); i++) await sleep(20);
    expect(running(child.qemu)).toBe(false);
  });
});

describe('a boot', () => {
  it('that QEMU refuses fails with what it said', async () => {
    const start = bootGuest(parts, {
      memory: { kind: 'file', bytes: 2 ** 29, path: '/nowhere/ram' },
    });
    await expect(start).rejects.toThrow(/exit code 1[\s\S]*\/nowhere\/ram/);
  });

  it('that does not end is given up, and leaves nothing', async () => {
    const start = bootGuest(parts, { bootTimeoutMs: 300 });
    await expect(start).rejects.toBeInstanceOf(VmTimeoutError);
  });

  it('that is aborted ends with the reason', async () => {
    const start = bootGuest(parts, { signal: AbortSignal.timeout(300) });
    await expect(start).rejects.toThrow(/timeout/);
  });

  it('that panics fails with the panic', async () => {
    const start = bootGuest(parts, { kernelArguments: ['rdinit=/none', 'root=/none'] });
    await expect(start).rejects.toBeInstanceOf(GuestPanicError);
  });

  it('finds the image made the second time', async () => {
    const before = performance.now();
    await expect(bootGuest(parts, { signal: AbortSignal.abort() })).rejects.toThrow();
    expect(performance.now() - before).toBeLessThan(2000);
  });
});

/** A process of its own that boots a guest and then waits. */
async function parent(): Promise<{ process: ChildProcess; qemu: number }> {
  const source = fileURLToPath(new URL('../../src', import.meta.url));
  expect(existsSync(source)).toBe(true);
  const script = `
    import { ensureParts } from ${JSON.stringify(`${source}/setup/ensure-parts.ts`)};
    import { bootGuest } from ${JSON.stringify(`${source}/vm/guest.ts`)};
    const vm = await bootGuest(await ensureParts());
    console.log(vm.pid);
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module-typescript', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [line] = await Promise.race([
    new Promise<[Buffer]>((resolve) => child.stdout.once('data', (chunk) => resolve([chunk]))),
    new Promise<never>((_resolve, reject) => {
      child.once('exit', (code) => reject(new Error(`the parent ended early: ${code}`)));
    }),
  ]);
  return { process: child, qemu: Number(`${line}`) };
}
