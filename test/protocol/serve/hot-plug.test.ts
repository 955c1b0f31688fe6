/** `bind` between VMs of a service whose guests run; their QEMUs are scripts that speak QMP. */
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { Vmm } from '../../../src/client/vmm.ts';
import { RunPlace } from '../cli/sealbus.ts';
import { type Answer, done, letsGo, refused, ScriptedQemu } from '../vm/scripted-qemu.ts';
import { type Bench, GPA, serviceBench, vmsOf } from './service-bench.ts';

const ends: AsyncDisposable[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end[Symbol.asyncDispose]();
});

const plain = { memory: 'plain' } as const;
const behindPort = { functions: [{ device: 'edu', at: '01:00.0' }] };

async function bench(): Promise<Bench> {
  const made = await serviceBench(
    vmsOf(
      { name: 'alpha', ...plain, 'root-ports': 1, ...behindPort },
      { name: 'beta', ...plain, 'root-ports': 1, functions: [] },
    ),
    plain,
  );
  ends.push(made);
  return made;
}

/** A QEMU of a VM: it connects to the function that it is given. */
async function runs(
  { service }: Bench,
  name: string,
  answers: Readonly<Record<string, Answer>> = {},
): Promise<ScriptedQemu> {
  const { machine } = service.host.vm(name);
  const qemu = await ScriptedQemu.at(machine.monitor.socketPath, 1, {
    device_add: async ({ socket }) => {
      const { path } = socket as { readonly path: string };
      ends.push(await Vmm.connect(path, { gpa: GPA, bytes: machine.bytes }));
      return done;
    },
    device_del: letsGo,
    ...answers,
  });
  ends.push(qemu);
  return qemu;
}

test('the printed command of a VM with root ports has its QMP where nobody else comes', async () => {
  const { service, client } = await bench();
  const { command, argv, rootPorts, functions } = await client.ask('inspect', { vm: 'alpha' });
  const [chardev = ''] = argv.filter((word) => word.startsWith('socket,id=qmp'));
  const path = /path=([^,]+),server=on,wait=off$/.exec(chardev)?.[1] ?? '';
  expect(path).toBe(service.host.vm('alpha').machine.monitor.socketPath);
  expect(statSync(dirname(path)).mode & 0o777).toBe(0o700);
  expect(command).toContain('-qmp chardev:qmp');
  expect(argv.filter((word) => word.includes('pcie-root-port'))).toHaveLength(1);
  expect(rootPorts).toBe(1);
  expect(functions).toMatchObject([{ rid: '0000:01:00.0', address: '0000:01:00.0' }]);

  const without = await client.ask('vm-add', {
    ...{ text: vmsOf({ name: 'gamma', ...plain }), file: 'v', directory: '/' },
  });
  expect(without[0]?.command).not.toContain('qmp');
});

test('bind moves a function from guest to guest, and a VM without a guest gets it for its boot', async () => {
  const { service, client, vmm } = await bench();
  const host = { service } as Bench;
  await vmm('alpha');
  const alpha = await runs(host, 'alpha');
  const beta = await runs(host, 'beta');
  const moved = await client.ask('bind', { rid: '0000:01:00.0', target: 'beta', at: '01:00.0' });
  expect(moved).toMatchObject({ rid: '0001:01:00.0', attached: true, entry: { vm: 2, slot: 2 } });
  expect(alpha.asked).toEqual(['device_del port-1-function']);
  expect(beta.asked).toEqual(['device_add port-1-function']);
  const [one, two] = await Promise.all(
    ['alpha', 'beta'].map((vm) => client.ask('inspect', { vm })),
  );
  expect([one?.functions, two?.functions]).toEqual([[], [moved]]);
  expect(two?.command).toContain(moved.socket);

  await alpha[Symbol.asyncDispose]();
  const back = await client.ask('bind', { rid: moved.rid, target: 'alpha' });
  expect(back).toMatchObject({ rid: '0000:01:00.0', attached: false });
  expect((await client.ask('inspect', { vm: 'alpha' })).command).toContain(back.socket);
});

test('bind takes nothing where the other guest has no place; a key slot has none', async () => {
  const made = await bench();
  const { service, client, vmm } = made;
  await vmm('alpha');
  const alpha = await runs(made, 'alpha');
  const beta = await runs(made, 'beta');
  beta.has(1);
  const bind = (target: string, at?: string) =>
    client.ask('bind', { rid: '00:1:00.0', target, ...(at === undefined ? {} : { at }) });
  await expect(bind('beta')).rejects.toThrow(/01:00.0, where the guest still has/);
  await expect(bind('beta', '00:04.0')).rejects.toThrow(/on bus 0/);
  await expect(bind('beta', 'here')).rejects.toThrow(/\[SSSS:\]BB:DD\.F/);
  await expect(bind('1', '01:00.0')).rejects.toThrow(/a VM to go to 01:00.0 in, got a key slot/);
  expect([alpha.asked, beta.asked]).toEqual([[], []]);
  expect(service.host.vm('alpha').attached).toBe(1);
});

test('what a QEMU has refused is its VM’s, and bind gives it once more', async () => {
  const made = await bench();
  const { client } = made;
  const answers = [() => refused('Bus is full')];
  const beta = await ScriptedQemu.at(made.service.host.vm('beta').machine.monitor.socketPath, 1, {
    device_add: async ({ socket }) => {
      const answer = answers.pop();
      if (answer !== undefined) return answer();
      const { path } = socket as { readonly path: string };
      ends.push(await Vmm.connect(path, { gpa: GPA, bytes: 64 * 2 ** 20 }));
      return done;
    },
  });
  ends.push(beta);
  await expect(client.ask('bind', { rid: '01:00.0', target: 'beta' })).rejects.toThrow(
    /to get 0001:01:00.0, got: QEMU refused device_add: Bus is full .*attach it again/,
  );
  expect((await client.ask('inspect', { vm: 'beta' })).functions).toMatchObject([
    { rid: '0001:01:00.0', device: 'edu', attached: false },
  ]);
  expect((await client.ask('inspect', { vm: 'alpha' })).functions).toEqual([]);
  expect(await client.ask('bind', { rid: '0001:01:00.0', target: 'beta' })).toMatchObject({
    attached: true,
  });
});

test('a VM that goes leaves nothing in the run’s directory, nor does its QEMU that was killed', async () => {
  const { service, client } = await bench();
  const { path } = service.host.platform.run;
  const before = readdirSync(path).sort();
  const gamma = { name: 'gamma', ...plain, iommu: 'virtio', 'root-ports': 1, ...behindPort };
  await client.ask('vm-add', { text: vmsOf(gamma), file: 'v', directory: '/' });
  // What stands in for the socket that SIGKILL leaves.
  writeFileSync(service.host.vm('gamma').machine.monitor.socketPath, '');
  expect(readdirSync(path).length).toBeGreaterThan(before.length + 2);
  await client.ask('vm-remove', { vm: 'gamma' });
  expect(readdirSync(path).sort()).toEqual(before);
});

test('while a guest is waited for its VMs change by nothing else, and the host’s end ends the wait', async () => {
  const made = await bench();
  const { service, client, vmm } = made;
  await vmm('alpha');
  const never = await runs(made, 'alpha', { device_del: () => undefined });
  const binding = client
    .ask('bind', { rid: '01:00.0', target: 'beta' })
    .catch((error: unknown) => error);
  while (never.asked.length === 0) await new Promise(setImmediate);
  const other = made.connect();
  const rid = '01:00.0';
  const page = { rid, address: GPA, bytes: 4096 };
  for (const change of [
    other.ask('vm-remove', { vm: 'alpha' }),
    other.ask('bind', { rid, target: 'alpha' }),
    other.ask('bind', { rid, target: '1' }),
    other.ask('bind-clear', { rid }),
    other.ask('bind-range', { ...page, slot: '1' }),
  ]) {
    await expect(change).rejects.toThrow(/got alpha, which changes at this/);
  }
  const { path } = service.host.platform.run;
  expect(readdirSync(path)).toContain('vm1-qmp.sock');
  await service[Symbol.asyncDispose]();
  expect(await binding).toBeInstanceOf(Error);
  expect(existsSync(path)).toBe(false);
});

test('sealbus bind says where the function goes, and sealbus inspect how many root ports there are', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-ports-'));
  using end = new DisposableStack();
  end.defer(() => rmSync(directory, { recursive: true }));
  const config = join(directory, 'vms.json');
  const vm = { ...plain, 'root-ports': 2 };
  writeFileSync(config, vmsOf({ name: 'alpha', ...vm }, { name: 'beta', ...vm }));
  const place = end.use(new RunPlace());
  await place.start(['serve', config, '--accel', 'tcg']).said(/^qemu-system|\/qemu-system/m);
  const moved = await place.run(['bind', '00:04.0', 'beta', '--at', '02:00.0']);
  expect([moved.code, moved.stdout.toString()]).toEqual([
    0,
    '0000:00:04.0 has moved to beta: it is 0001:02:00.0 now, 02:00.0 in the guest, and goes through slot 2\n',
  ]);
  const shown = (await place.run(['inspect', 'beta'])).stdout.toString();
  expect(shown).toMatch(/^root ports: 2$/m);
  const command = (await place.run(['inspect', 'beta', '--command'])).stdout.toString();
  expect(command).toMatch(/^[^\n]*qemu/);
  expect(shown.endsWith(`\n${command}`)).toBe(true);
  expect(shown).toMatch(/^0001:02:00\.0 +0000:02:00\.0 /m);
  const wrong = await place.run(['bind', '0001:02:00.0', '--clear', '--at', '01:00.0']);
  expect([wrong.code, wrong.stderr]).toEqual([1, expect.stringContaining('a VM to go to 01:00.0')]);
});
