/** Each of these fails, by what its name says. failures.test.ts knows the names. */
import { expect, test } from 'sealbus/vitest';
import { Adder } from '../../../../examples/adder/adder.ts';

const trouble = { source: '../../../../qemu/trouble/trouble.c', load: false };

test.use({ device: () => new Adder(), module: trouble });

test('passes', async ({ guest }) => {
  expect(await guest.sh('echo fine')).toBe('fine');
});

test.describe('the kernel complains', () => {
  test('of a warning, while the test passes', async ({ guest }) => {
    await guest.insmod('trouble', { what: 'warn' });
  });

  test('of a warning that is allowed', async ({ guest }) => {
    guest.allowComplaints(/trouble was asked for/);
    await guest.insmod('trouble', { what: 'warn' });
  });

  test('of an oops', async ({ guest }) => {
    await guest.insmod('trouble', { what: 'oops' });
  });

  test('of a general protection fault', async ({ guest }) => {
    await guest.try('insmod /lib/modules/trouble.ko what=protection');
  });

  test('of sleep under a lock', async ({ guest }) => {
    await guest.insmod('trouble', { what: 'atomic' });
  });

  test('of a hung task', async ({ guest }) => {
    await guest.insmod('trouble', { what: 'hung' });
    await guest.console.expect(/blocked for more than/, { timeoutMs: 60_000 });
  });
});

test('a driver that panics the guest', async ({ guest }) => {
  await guest.insmod('trouble', { what: 'panic' });
});

test.describe('one CPU', () => {
  test.use({ cpus: 1, commandTimeoutMs: 4000 });

  test('a driver that hangs the guest', async ({ guest }) => {
    await guest.insmod('trouble', { what: 'hang' });
  });
});

test('a guest that powers itself off', async ({ guest }) => {
  await guest.sh('poweroff -f');
});

test('an agent that dies', async ({ guest }) => {
  // Its code turns to zeros under it, which no init survives.
  await guest.sh(`
    set -- $(grep r-xp /proc/1/maps | head -n 1 | tr - ' ')
    dd if=/dev/zero of=/proc/1/mem bs=4096 seek=$((0x$1 / 4096)) count=$(((0x$2 - 0x$1) / 4096)) \\
      conv=notrunc`);
});

test('QEMU killed under a command', async ({ guest }) => {
  setTimeout(() => process.kill(guest.vm.pid, 'SIGKILL'), 200);
  await guest.sh('sleep 60');
});

test('QEMU killed, while the test passes', async ({ guest }) => {
  process.kill(guest.vm.pid, 'SIGKILL');
  await guest.vm.ended;
});

test('a memory controller killed under a command', async ({ guest, machine }) => {
  const pid = machine.controller?.pid;
  if (pid === undefined) throw new Error('expected sealed memory');
  setTimeout(() => process.kill(pid, 'SIGKILL'), 200);
  await guest.sh('sleep 60');
});

test('a command that takes too long', async ({ guest }) => {
  await guest.sh('echo begun; sleep 60', { timeoutMs: 1000 });
});

test('a test that takes too long', { timeout: 8000 }, async ({ guest }) => {
  await guest.sh('sleep 60');
});

test('a console that says nothing of it', async ({ guest }) => {
  await guest.console.expect(/never said/, { timeoutMs: 500 });
});

test.describe('a guest that never boots', () => {
  test.use({ kernelArguments: ['rdinit=/bin/cat'], bootTimeoutMs: 8000 });
  test('is given up', async ({ guest }) => {
    await guest.sh('true');
  });
});

test.describe('a boot that takes too long', () => {
  test.use({ kernelArguments: ['rdinit=/bin/cat'] });
  test('for its test', { timeout: 6000 }, async ({ guest }) => {
    await guest.sh('true');
  });
});

test.describe('a guest without init', () => {
  test.use({ kernelArguments: ['rdinit=/nowhere'] });
  test('panics at once', async ({ guest }) => {
    await guest.sh('true');
  });
});

test.describe('a kernel without the module', () => {
  test.use({ kernelModules: ['drivers/nowhere/nothing'] });
  test('says which', async ({ guest }) => {
    await guest.sh('true');
  });
});

test.describe('a driver that does not compile', () => {
  test.use({ module: 'broken/broken.c' });
  test('is shown where', async ({ guest }) => {
    await guest.sh('true');
  });
});

test.describe('a driver that is not there', () => {
  test.use({ module: 'nowhere.c' });
  test('is named', async ({ guest }) => {
    await guest.sh('true');
  });
});

test.describe('a device with a bug', () => {
  class Broken extends Adder {
    override async run() {
      throw new TypeError('this device has a bug');
    }
  }
  test.use({ device: () => new Broken(), module: '../../../../qemu/adder/adder.c' });

  test('fails a test that passes', async ({ client }) => {
    await client.bar0.write('control', { go: true });
  });
});
