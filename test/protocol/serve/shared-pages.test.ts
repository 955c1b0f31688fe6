/** Pages of a served VM are made shared and private, and a function reaches them, by words on the control socket. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { Vmm } from '../../../src/client/vmm.ts';
import type { Iova } from '../../../src/pci/dma-port.ts';
import { RunPlace } from '../cli/sealbus.ts';
import { noSealedRam } from '../memory/sealed-bench.ts';
import { type Bench, GPA, MIB, serviceBench, vmsOf } from './service-bench.ts';

const PAGE = 4096;
const RID = '0000:00:04.0';
const IN_VM = { vm: 'alpha' };

const ends: (AsyncDisposable | Disposable)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) {
    if (Symbol.asyncDispose in end) await end[Symbol.asyncDispose]();
    else end[Symbol.dispose]();
  }
});

async function bench(
  config: string,
  ...rest: [Parameters<typeof serviceBench>[1]?]
): Promise<Bench> {
  const made = await serviceBench(config, ...rest);
  ends.push(made);
  return made;
}

const text = Buffer.from('what a CPU stored and a device is to see. ');
const content = Buffer.alloc(16 * PAGE, text);

describe.skipIf(noSealedRam() !== undefined)('a VM that is served', () => {
  /** A VM whose VMM has stored something at GPA, and its function's DMA. */
  async function stored() {
    const made = await bench(vmsOf({ name: 'alpha' }, { name: 'beta' }));
    const one = await made.vmm('alpha');
    const { memory } = one;
    memory.write(GPA, content);
    const { machine } = made.service.host.vm('alpha');
    const port = machine.functions[0]?.port;
    const read = (at = GPA, length = PAGE) => {
      const into = Buffer.alloc(length);
      port?.readInto(at as Iova, into);
      return into;
    };
    const write = (bytes: Uint8Array, at = GPA) => port?.writeFrom(at as Iova, bytes);
    const dram = () => Buffer.from(machine.sealed?.dram().subarray(0, content.length) ?? []);
    const lines = () => made.service.host.recorder.lines;
    const since = () => {
      const { length } = lines();
      return () => lines().slice(length);
    };
    return { ...made, one, memory, machine, read, write, dram, since };
  }

  test('a function reads and writes pages by the key and in the clear, before they are shared, while and after', async () => {
    const { client, memory, read, write, dram, since } = await stored();
    const page = content.subarray(0, PAGE);
    const range = { ...IN_VM, address: GPA, bytes: 2 * PAGE };
    const lines = since();

    // Private: by the key it is what the CPU stored, in the clear it is the ciphertext that lies in DRAM.
    expect(read().equals(page)).toBe(true);
    expect(await client.ask('bind-clear', { rid: RID })).toMatchObject({
      entry: { slot: 'in-the-clear', slotFrom: 'device-table', vm: 1 },
    });
    const ciphertext = read();
    expect(ciphertext.equals(dram().subarray(0, PAGE))).toBe(true);
    expect(ciphertext.includes(text)).toBe(false);

    expect(await client.ask('pages-share', { ...range, keep: true })).toEqual({
      ...{ bytes: 2 * PAGE, ranges: [{ address: '0x100000', bytes: 2 * PAGE }], more: false },
    });
    expect(read(GPA, 2 * PAGE).equals(content.subarray(0, 2 * PAGE))).toBe(true);
    expect(dram().indexOf(text)).toBe(0);
    write(Buffer.from('from the device'));
    expect(Buffer.from(memory.read(GPA, 15)).toString()).toBe('from the device');
    memory.write(GPA, page);

    await client.ask('bind', { rid: RID, target: 'alpha' });
    expect(read().includes(text)).toBe(false);
    expect(read(GPA + 2 * PAGE).equals(content.subarray(2 * PAGE, 3 * PAGE))).toBe(true);

    expect(await client.ask('pages-unshare', { ...range, keep: true })).toEqual({
      ...{ bytes: 0, ranges: [], more: false },
    });
    expect(read().equals(page)).toBe(true);
    await client.ask('bind-clear', { rid: RID });
    expect(read().includes(text)).toBe(false);

    const about = { vm: 1, slot: 1, generation: 1 };
    const through = { ...about, rid: RID, slotFrom: 'device-table' };
    const clear = { ...through, slot: 'in-the-clear', generation: null };
    const pages = { ...about, rid: null, event: 'pages', address: '0x100000', bytes: 2 * PAGE };
    const dma = { event: 'mismatched', rid: RID, vm: 1, iova: '0x100000', length: PAGE };
    expect(lines()).toMatchObject([
      { ...clear, event: 'binding', reason: 'changed' },
      { ...dma, slot: null, reason: 'page-is-private', direction: 'read' },
      { ...pages, reason: 'shared', kept: true },
      { ...through, event: 'binding', reason: 'changed' },
      { ...dma, slot: 1, generation: 1, reason: 'page-is-shared', direction: 'read' },
      { ...pages, reason: 'unshared', kept: true },
      { ...clear, event: 'binding', reason: 'changed' },
      { ...dma, slot: null, reason: 'page-is-private', direction: 'read' },
    ]);
    for (const line of lines()) {
      expect(Object.keys(line).slice(0, 7)).toEqual([
        ...['time', 'event', 'rid', 'vm', 'slot', 'generation', 'reason'],
      ]);
    }
  });

  test('content is discarded where that was asked for, on either way', async () => {
    const { client, memory, read, dram, since } = await stored();
    const lines = since();
    const range = { ...IN_VM, address: GPA, bytes: PAGE };
    await client.ask('pages-share', { ...range, keep: false });
    expect(new Set(memory.read(GPA, PAGE))).toEqual(new Set([0]));
    memory.write(GPA, content.subarray(0, PAGE));
    await client.ask('pages-unshare', { ...range, keep: false });
    expect(new Set(read())).toEqual(new Set([0]));
    expect(dram().subarray(0, PAGE).includes(text)).toBe(false);
    expect(read(GPA + PAGE).equals(content.subarray(PAGE, 2 * PAGE))).toBe(true);
    expect(lines()).toMatchObject([
      { event: 'pages', reason: 'shared', kept: false },
      { event: 'pages', reason: 'unshared', kept: false },
    ]);
  });

  test('what is shared is told by address, in as few ranges as it is, and counted', async () => {
    const { client, machine } = await stored();
    const share = (at: number, pages: number) =>
      client.ask('pages-share', {
        ...{ ...IN_VM, address: GPA + at * PAGE, bytes: pages * PAGE, keep: true },
      });
    const shared = async () => (await client.ask('inspect', IN_VM)).shared;
    await share(8, 1);
    await share(2, 2);
    await share(4, 1);
    const both = [
      { address: `0x${(GPA + 2 * PAGE).toString(16)}`, bytes: 3 * PAGE },
      { address: `0x${(GPA + 8 * PAGE).toString(16)}`, bytes: PAGE },
    ];
    expect(await shared()).toEqual({ bytes: 4 * PAGE, ranges: both, more: false });
    expect((await client.ask('inspect', { vm: 'beta' })).shared?.bytes).toBe(0);
    const metrics = await client.ask('metrics', {});
    expect(metrics).toContain('sealbus_events_total{event="pages",reason="shared"} 3\n');
    expect(metrics).toContain(`sealbus_vm_shared_bytes{vm="alpha"} ${4 * PAGE}\n`);
    expect(metrics).toContain('sealbus_memory_converted_pages_total{vm="alpha"} 4\n');

    // More ranges than are told of: the first ones, and that there are more.
    for (let page = 100; page < 100 + 2 * 260; page += 2) {
      await machine.share({ address: (GPA + page * PAGE) as never, bytes: PAGE }, { keep: true });
    }
    const many = await shared();
    expect(many).toMatchObject({ bytes: 264 * PAGE, more: true });
    expect(many?.ranges).toHaveLength(256);
    expect(many?.ranges.slice(0, 2)).toEqual(both);
  });

  test('shared pages stay so when the VMM has gone, which knew where they are', async () => {
    const { client, one, vmm, dram } = await stored();
    await client.ask('pages-share', { ...IN_VM, address: GPA, bytes: MIB, keep: true });
    await one[Symbol.asyncDispose]();
    const shared = async () => (await client.ask('inspect', IN_VM)).shared;
    expect(await shared()).toEqual({ bytes: MIB, ranges: [], more: false });
    expect(dram().equals(content)).toBe(true);
    const range = { ...IN_VM, address: GPA, bytes: MIB, keep: true };
    await expect(client.ask('pages-unshare', range)).rejects.toThrow(/connect a VMM first/);
    await vmm('alpha');
    expect(await shared()).toMatchObject({ ranges: [{ address: '0x100000', bytes: MIB }] });
    expect(await client.ask('pages-unshare', range)).toMatchObject({ bytes: 0 });
  });

  test('what cannot be converted or bound is refused, and nothing is changed or recorded', async () => {
    const made = await bench(vmsOf({ name: 'alpha' }, { name: 'beta', memory: 'plain' }));
    const { client, service, vmm } = made;
    const range = { address: GPA, bytes: PAGE, keep: true };
    const share = (change: object) => client.ask('pages-share', { ...IN_VM, ...range, ...change });
    await expect(share({})).rejects.toThrow(/connect a VMM first/);
    await vmm('alpha');
    await vmm('beta');
    const { length } = service.host.recorder.lines;
    await expect(share({ vm: 'gamma' })).rejects.toThrow(/alpha, beta.*"gamma"/);
    await expect(share({ vm: 'beta' })).rejects.toThrow(/expected sealed memory, got plain/);
    await expect(share({ address: GPA - PAGE })).rejects.toThrow(/range of guest RAM/);
    await expect(share({ bytes: 128 * MIB })).rejects.toThrow(/range of guest RAM/);
    await expect(share({ address: GPA + 8 })).rejects.toThrow(/multiple of 4096/);
    await expect(client.ask('bind-clear', { rid: '0001:00:04.0' })).rejects.toThrow(/beta.*plain/);
    await expect(client.ask('bind-clear', { rid: '00:09.0' })).rejects.toThrow(/none's/);
    expect(service.host.recorder.lines).toHaveLength(length);
    expect((await client.ask('inspect', IN_VM)).shared?.bytes).toBe(0);
    expect((await client.ask('inspect', { vm: 'beta' })).shared).toBeNull();
    // Without a key there is no content to be kept.
    await client.ask('key-revoke', { slot: 'alpha' });
    await expect(share({ keep: true })).rejects.toThrow(
      /\(0 of 4096 bytes were converted before\)/,
    );
    const lines = service.host.recorder.lines.slice(length);
    expect(lines.filter(({ event }) => event === 'pages')).toEqual([]);
  });

  test('a conversion that stops on its way is recorded as far as it came; another VM’s goes on', async () => {
    const { client, connect, service, since } = await stored();
    const lines = since();
    const bytes = 48 * MIB;
    const sharing = client
      .ask('pages-share', { ...IN_VM, address: GPA, bytes, keep: true })
      .catch((error: Error) => error);
    const other = connect();
    while ((await other.ask('inspect', IN_VM)).shared?.bytes === 0);
    await other.ask('key-revoke', { slot: 'alpha' });
    const { shared } = await other.ask('inspect', IN_VM);
    const error = await sharing;
    expect(String(error)).toContain(`(${shared?.bytes} of ${bytes} bytes were converted before)`);
    expect(shared?.bytes).toBeLessThan(bytes);
    expect(lines().filter(({ event }) => event === 'pages')).toMatchObject([
      { reason: 'shared', address: '0x100000', bytes: shared?.bytes, kept: true },
    ]);
    expect(service.host.vm('beta').machine.sealed?.sharedBytes).toBe(0);
  });

  test('a VM that is removed in the middle of a conversion ends it, and no other VM’s', async () => {
    const { client, connect, service, vmm, since } = await stored();
    await vmm('beta');
    const lines = since();
    const whole = { address: GPA, bytes: 48 * MIB, keep: false };
    const ended = client.ask('pages-share', { ...IN_VM, ...whole }).catch((error: Error) => error);
    const others = connect().ask('pages-share', { ...whole, vm: 'beta' });
    const { sealed } = service.host.vm('alpha').machine;
    while (sealed?.sharedBytes === 0) await nextTurn();
    expect(await connect().ask('vm-remove', { vm: 'alpha' })).toEqual({ attached: 1 });
    const converted = sealed?.sharedBytes ?? 0;
    expect(String(await ended)).toContain(`(${converted} of ${whole.bytes} bytes were converted`);
    expect(converted).toBeLessThan(whole.bytes);
    expect(await others).toMatchObject({ bytes: whole.bytes });
    expect(lines().filter(({ event }) => event === 'pages' || event === 'vm')).toMatchObject([
      { event: 'pages', vm: 1, slot: 1, generation: 1, bytes: converted, kept: false },
      { event: 'vm', reason: 'removed', name: 'alpha' },
      { event: 'pages', vm: 2, slot: 2, generation: 1, bytes: whole.bytes, kept: false },
    ]);
  });

  test('the words of the command line', async () => {
    const place = new RunPlace();
    ends.push(place);
    const directory = mkdtempSync(join(tmpdir(), 'sealbus-serve-'));
    ends.push({ [Symbol.dispose]: () => rmSync(directory, { recursive: true, force: true }) });
    const config = join(directory, 'vms.yaml');
    writeFileSync(config, vmsOf({ name: 'alpha' }));
    const { child, ended, said } = place.start(['serve', config, '--json', '--accel', 'tcg']);
    await said(/"control":"[^"]+".*\n/);
    const words = async (...args: string[]) => {
      const { code, stdout, stderr } = await place.run(args);
      return { code, out: stdout.toString(), err: stderr };
    };
    const seen = JSON.parse((await words('inspect', 'alpha', '--json')).out);
    const at = { gpa: GPA, bytes: seen.bytes, file: seen.ram };
    ends.push(await Vmm.connect(seen.functions[0].socket, at));

    expect(await words('share', 'alpha', '0x100000', '64K', '--keep')).toEqual({
      ...{ code: 0, out: 'shared: 64 KiB at 0x100000\n', err: '' },
    });
    expect((await words('inspect', 'alpha')).out).toContain('\nshared: 64 KiB at 0x100000\n');
    const { out } = await words('unshare', 'alpha', '101000', '4096', '--discard', '--json');
    expect(JSON.parse(out)).toEqual({
      ...{ bytes: 15 * PAGE, more: false },
      ranges: [
        { address: '0x100000', bytes: PAGE },
        { address: '0x102000', bytes: 14 * PAGE },
      ],
    });
    expect((await words('bind', RID, '--clear')).out).toBe(`${RID} goes in the clear\n`);
    expect((await words('bind', RID, '--clear', '--range', '0x100000+8K')).out).toBe(
      `${RID} goes by the translation: in the clear from 0x0\n`,
    );
    expect((await words('bind', RID, 'alpha')).out).toBe(`${RID} goes through slot 1\n`);

    const refusals = [
      [['share', 'alpha', '0x100000', '64K'], /--keep or --discard, got neither/],
      [['share', 'alpha', '0x10000000', '4K', '--keep'], /range of guest RAM/],
      [['unshare', 'alpha', '0x100001', '4K', '--keep'], /address of a 4096-byte page/],
      [['bind', RID], /got none/],
    ] as const;
    const refused = await Promise.all(refusals.map(([args]) => words(...args)));
    for (const [at, { code, out: printed, err }] of refused.entries()) {
      expect([code, printed]).toEqual([1, '']);
      expect(err).toMatch(refusals[at]?.[1] ?? /^$/);
    }
    child.kill('SIGTERM');
    expect((await ended).code).toBe(0);
  });
});

test('refused DMA is counted in full, however much of it the log has kept', async () => {
  const { client, service, vmm } = await bench(
    vmsOf({ name: 'alpha', memory: 'plain' }, { name: 'beta', memory: 'plain' }),
    { memory: 'plain' },
  );
  await vmm('alpha');
  await vmm('beta');
  const into = new Uint8Array(16);
  for (const [name, times] of [
    ['alpha', 5000],
    ['beta', 3],
  ] as const) {
    const port = service.host.vm(name).machine.functions[0]?.port;
    for (let n = 0; n < times; n++) expect(() => port?.readInto(0 as Iova, into)).toThrow();
  }
  expect(service.host.platform.iommu.faults.records.length).toBeLessThan(5000);
  expect(await client.ask('inspect', IN_VM)).toMatchObject({ refused: 5000 });
  expect(await client.ask('inspect', { vm: 'beta' })).toMatchObject({ refused: 3 });
});
