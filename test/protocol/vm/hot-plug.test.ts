/** device_add and device_del as a QEMU may answer them; what a real one answers is in test/guest. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { addDevice, namedDevices, removeDevice } from '../../../src/vm/hot-plug.ts';
import { connectQmp } from '../../../src/vm/qmp-socket.ts';
import { VmTimeoutError } from '../../../src/vm/vm-error.ts';
import { type Answer, done, letsGo, refused, ScriptedQemu } from './scripted-qemu.ts';

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

function socketPath(): string {
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-qmp-'));
  ends.push(() => rmSync(directory, { recursive: true }));
  return join(directory, 'qmp.sock');
}

async function bench(answers: Readonly<Record<string, Answer>>) {
  const path = socketPath();
  const qemu = await ScriptedQemu.at(path, 1, answers);
  ends.push(() => qemu[Symbol.asyncDispose]());
  const connection = await connectQmp(path, 5000);
  if (connection === undefined) throw new Error('expected somebody to listen');
  ends.push(() => connection[Symbol.dispose]());
  return { qemu, qmp: connection.qmp };
}

/** Long, where nothing but the answer may end the wait; short, where the wait itself is what ends. */
const long = { replyMs: 60_000, removalMs: 60_000 };
const short = { replyMs: 60_000, removalMs: 50 };
const id = 'port-1-function';

describe('a device is removed', () => {
  test('once QEMU says that it is deleted, not when it has heard', async () => {
    let tell = () => {};
    const { qemu, qmp } = await bench({
      device_del: (_, self) => {
        self.event('DEVICE_DELETED', { path: '/machine/peripheral/other/virtio-backend' });
        self.event('DEVICE_DELETED', { device: 'other', path: '/machine/peripheral/other' });
        tell = () => self.lose(id);
        return done;
      },
    });
    let over = false;
    const removing = removeDevice(qmp, id, long).finally(() => {
      over = true;
    });
    while (qemu.asked.length === 0) await new Promise(setImmediate);
    await namedDevices(qmp); // what was said before has come
    expect(over).toBe(false);
    tell();
    expect(await removing).toBeUndefined();
  });

  test('at once where QEMU has no such device', async () => {
    const { qmp } = await bench({
      device_del: () => refused(`Device '${id}' not found`, 'DeviceNotFound'),
    });
    expect(await removeDevice(qmp, id, long)).toBeUndefined();
  });

  test('by asking again while the guest still takes it in', async () => {
    const busy = ['Hot-unplug failed: guest is busy (power indicator blinking)'];
    const { qemu, qmp } = await bench({
      device_del: (args, self) => {
        const why = busy.pop();
        return why === undefined ? letsGo(args, self) : refused(why);
      },
    });
    expect(await removeDevice(qmp, id, long)).toBeUndefined();
    expect(qemu.asked).toEqual([`device_del ${id}`, `device_del ${id}`]);
  });
});

describe('a device that is not removed is told with its reason', () => {
  test.each<[string, Answer, typeof long, RegExp]>([
    ['a guest that ignores it', () => done, short, /within 0.05 s: the guest did not let go/],
    ['a QEMU that is busy', () => refused('guest is busy'), short, /0.05 s: QEMU refused.*is busy/],
    ['a QEMU that never answers', () => undefined, short, /within 0.05 s: expected QEMU's reply/],
    [
      'a guest that refuses',
      (_, qemu) => {
        qemu.event('DEVICE_UNPLUG_GUEST_ERROR', { device: id, path: `/machine/peripheral/${id}` });
        return done;
      },
      long,
      /^the guest refused$/,
    ],
    [
      'a QEMU that goes',
      (_, qemu) => {
        qemu.hangUp();
        return undefined;
      },
      long,
      /closed its QMP connection/,
    ],
    [
      'what is no QMP',
      (_, qemu) => {
        qemu.write('{"return": {}\n');
        return undefined;
      },
      long,
      /expected QMP, a JSON object a line, got \{"return": \{\}/,
    ],
  ])('%s', async (_, answer, patience, why) => {
    const { qmp } = await bench({ device_del: answer });
    expect(await removeDevice(qmp, id, patience)).toMatch(why);
  });
});

test('a device is added behind its port by the name by which it is removed', async () => {
  let given: unknown;
  const { qmp } = await bench({
    device_add: (args) => {
      given = args;
      return done;
    },
  });
  const address = parseRequesterId('01:00.0');
  await addDevice(qmp, { kind: 'vfio-user', address, socket: '/run/x.sock' });
  expect(given).toMatchObject({
    ...{ driver: 'vfio-user-pci', bus: 'port-1', addr: '0.0', id },
    socket: { type: 'unix', path: '/run/x.sock' },
  });
});

test('what QEMU lists is taken for names, whatever it is', async () => {
  const lists: unknown[] = [[{ name: 'port-1' }, 'x', null, { type: 'string' }], 'none', undefined];
  const { qmp } = await bench({ 'qom-list': () => ({ return: lists.shift() }) });
  expect([...(await namedDevices(qmp))]).toEqual(['port-1']);
  expect([...(await namedDevices(qmp))]).toEqual([]);
  expect([...(await namedDevices(qmp))]).toEqual([]);
});

describe('a QMP socket', () => {
  test('where nobody listens is no QEMU, also where one has left its socket', async () => {
    const path = socketPath();
    expect(await connectQmp(path, 1000)).toBeUndefined();
    // As SIGKILL leaves it: Node unlinks what it has listened at, under a name that it has no more.
    const { createServer } = await import('node:net');
    const { renameSync } = await import('node:fs');
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(`${path}.0`, resolve));
    renameSync(`${path}.0`, path);
    await new Promise((resolve) => server.close(resolve));
    expect(existsSync(path)).toBe(true);
    expect(await connectQmp(path, 1000)).toBeUndefined();
  });

  test('of a QEMU that does not greet is given up', async () => {
    const path = socketPath();
    const qemu = await ScriptedQemu.at(path, 1, {}, false);
    ends.push(() => qemu[Symbol.asyncDispose]());
    const error = await connectQmp(path, 20).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(VmTimeoutError);
    expect(String(error)).toMatch(/greeting within 0.02 s.*is stopped or hangs/s);
  });
});
