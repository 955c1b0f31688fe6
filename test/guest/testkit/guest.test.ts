/** The guest of a driver test: what it can be asked, what it is set up with, and that it is fresh. */
import { randomBytes } from 'node:crypto';
import { describe, expect, test } from 'sealbus/vitest';
import { Adder } from '../../../examples/adder/adder.ts';
import { Edu } from '../../../src/devices/edu/edu.ts';

const driver = '../../../qemu/adder/adder.c';

describe('a guest', () => {
  test.use({ device: () => new Adder() });

  test('runs scripts and programs, with their streams apart', async ({ guest }) => {
    expect(await guest.sh('echo out; echo err >&2')).toBe('out');
    expect(await guest.try('echo out; echo err >&2; exit 3')).toEqual({
      ...{ exitCode: 3, stdout: 'out', stderr: 'err' },
    });
    expect(await guest.exec(['printf', '%s|', "it's", '$HOME'])).toBe("it's|$HOME|");
    expect(await guest.sh('read a; echo "$a $B"', { stdin: 'in\n', env: { B: 'env' } })).toBe(
      'in env',
    );
    await expect(guest.sh('echo why >&2; exit 4')).rejects.toThrow(/exit code 4.*why/s);
  });

  test('takes and gives files of any bytes', async ({ guest }) => {
    const bytes = randomBytes(300_001);
    await guest.write('/tmp/bytes', bytes);
    expect((await guest.read('/tmp/bytes')).equals(bytes)).toBe(true);
    await guest.write('/tmp/text', 'text\n');
    expect(`${await guest.read('/tmp/text')}`).toBe('text\n');
    await expect(guest.read('/tmp/nothing')).rejects.toThrow('No such file');
    await expect(guest.write('/no/such/place', '')).rejects.toThrow('expected to write');
  });

  test('says on its console what its kernel logs, of every level', async ({ guest }) => {
    const waiting = guest.console.expect(/a word: (\d+)/);
    await guest.sh('echo "<7>a word: 42" > /dev/kmsg');
    expect((await waiting)[1]).toBe('42');
    expect(await guest.dmesg()).toContain('a word: 42');
  });
});

describe('each test has a guest of its own', () => {
  test.use({ device: () => new Adder() });
  const marks = ['one', 'two'];

  for (const mark of marks) {
    test(`and sees nothing of another's: ${mark}`, async ({ guest, device, trace }) => {
      expect(await guest.sh('ls /root')).toBe('');
      expect(await guest.sh('pcimem 0000:00:04.0 0 0x10 4')).toBe('0x00000000');
      expect(device).not.toHaveWritten('length');
      expect(trace.events.filter(({ kind }) => kind === 'function')).toHaveLength(1);
      await guest.sh(`touch /root/${mark}; pcimem 0000:00:04.0 0 0x10 4 0x11`);
      expect(device).toHaveWritten('length', 0x11, { times: 1 });
    });
  }
});

describe('set up', () => {
  test.use({
    device: () => new Adder(),
    module: { source: driver, load: false },
    files: {
      '/etc/motto': 'sealed\n',
      '/bin/hello': { content: '#!/bin/sh\necho hello "$1"\n', mode: 0o755 },
    },
    kernelArguments: ['sealbus.word=1'],
    cpus: 1,
    bytes: 128 * 2 ** 20,
  });

  test('with files, arguments and a machine of one’s own', async ({ guest }) => {
    expect(await guest.sh('cat /etc/motto; hello you')).toBe('sealed\nhello you');
    expect(await guest.sh('cat /proc/cmdline')).toContain('sealbus.word=1');
    expect(await guest.sh('nproc')).toBe('1');
    expect(Number(await guest.sh("awk '/MemTotal/ {print $2}' /proc/meminfo"))).toBeLessThan(
      131072,
    );
  });

  test('with a module that the test loads and unloads', async ({ guest, device }) => {
    expect((await guest.try('ls /dev/adder')).exitCode).not.toBe(0);
    await guest.insmod('adder');
    await guest.sh('ls /dev/adder');
    await guest.rmmod('adder');
    expect((await guest.try('ls /dev/adder')).exitCode).not.toBe(0);
    await expect(guest.insmod('nothing')).rejects.toThrow(/nothing.*No such file/s);
    expect(device).not.toHaveDma();
  });

  describe('and deeper', () => {
    test.use({ module: [driver], files: { '/etc/motto': 'plain\n' } });

    test('by what is said there, and what was said above', async ({ guest }) => {
      expect(await guest.sh('cat /etc/motto; nproc; ls /dev/adder')).toBe('plain\n1\n/dev/adder');
    });
  });
});

describe('a reboot', () => {
  test.use({ device: () => new Adder(), module: driver, files: { '/root/kept': 'kept' } });

  test('brings the guest back as it was at first', async ({ guest, device }) => {
    await guest.sh('touch /root/lost');
    const before = Number((await guest.sh('cat /proc/uptime')).split('.')[0]);
    await guest.reboot();
    expect(await guest.sh('ls /root; ls /dev/adder')).toBe('kept\n/dev/adder');
    expect(Number((await guest.sh('cat /proc/uptime')).split('.')[0])).toBeLessThan(before + 3);
    expect(device).toHaveReset('device');
    expect(await guest.sh('printf abc > /dev/adder && cat /dev/adder')).toBe('294');
    expect(device).toHaveDma({ direction: 'read', bytes: 3 });
  });
});

describe('several devices', () => {
  test.use({
    device: () => new Adder(),
    devices: [{ make: () => new Edu(), at: '00:0a.0' }, () => new Edu()],
  });

  test('each in its place, told apart', async ({ guest, devices }) => {
    const [adder, far, next] = devices;
    expect(await guest.sh('cd /sys/bus/pci/devices; cat 0000:00:0[45a].0/device')).toBe(
      '0x5eb1\n0x11e8\n0x11e8',
    );
    await guest.insmod('sealbus_edu');
    await guest.sh('cat /sys/bus/pci/devices/0000:00:0a.0/liveness');
    expect(far).toHaveRead('liveness');
    expect(next).not.toHaveRead('liveness');
    expect(adder).not.toHaveRead('control');
  });
});

describe('started by a boot', () => {
  test.use({ device: () => new Adder(), module: driver, start: 'boot', memory: 'plain' });

  test('finds the device where its firmware has put it', async ({ guest, device }) => {
    expect(await guest.dmesg()).toMatch(/pci 0000:00:04\.0: BAR 0 \[mem 0xfe/);
    expect(await guest.sh('printf abc > /dev/adder && cat /dev/adder')).toBe('294');
    expect(device).toHaveDma({ bytes: 3, encrypted: false });
  });
});
