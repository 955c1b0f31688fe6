/** A served function finds its slot by the device table, or by the translation: by words on the control socket. */
import { afterEach, describe, expect, test } from 'vitest';
import type { Iova } from '../../../src/pci/dma-port.ts';
import { noSealedRam } from '../memory/sealed-bench.ts';
import { type Bench, GPA, serviceBench, vmsOf } from './service-bench.ts';

const PAGE = 4096;
const RID = '0000:00:04.0';
const SECOND = 77;

const ends: AsyncDisposable[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end[Symbol.asyncDispose]();
});

const text = Buffer.from('what a CPU stored and a device is to see. ');
const content = Buffer.alloc(8 * PAGE, text);
const inRange = { rid: RID, address: GPA + 2 * PAGE, bytes: 2 * PAGE };

function withSlotFrom(slotFrom: 'device-table' | 'translation') {
  const functions = [{ device: 'edu', at: '00:04.0', 'slot-from': slotFrom }];
  return vmsOf({ name: 'alpha', functions }, { name: 'beta' });
}

/** VM alpha, whose VMM has stored something at GPA, with a second slot; its function's DMA. */
async function stored(config: string) {
  const made: Bench = await serviceBench(config);
  ends.push(made);
  const { memory } = await made.vmm('alpha');
  memory.write(GPA, content);
  await made.client.ask('key-generate', { slot: SECOND, vm: 'alpha' });
  await made.client.ask('key-activate', { slot: SECOND });
  const port = made.service.host.vm('alpha').machine.functions[0]?.port;
  const read = (page: number, pages = 1) => {
    const into = Buffer.alloc(pages * PAGE);
    port?.readInto((GPA + page * PAGE) as Iova, into);
    return into;
  };
  const write = (page: number, bytes: Uint8Array) =>
    port?.writeFrom((GPA + page * PAGE) as Iova, bytes);
  const stands = (page: number, pages = 1) =>
    read(page, pages).equals(content.subarray(page * PAGE, (page + pages) * PAGE));
  const entry = async () => {
    const { functions } = await made.client.ask('inspect', { vm: 'alpha' });
    return functions.find(({ rid }) => rid === RID)?.entry;
  };
  const { recorder } = made.service.host;
  const before = recorder.lines.length;
  return { ...made, memory, read, write, stands, entry, lines: () => recorder.lines.slice(before) };
}

describe.skipIf(noSealedRam() !== undefined)('a function of a VM that is served', () => {
  test('goes by the translation from the start where its configuration says so, as by the device table else', async () => {
    const { stands, entry } = await stored(withSlotFrom('translation'));
    expect(await entry()).toMatchObject({
      slotFrom: 'translation',
      ranges: [{ start: '0x0', bytes: 2 ** 52, slot: 1, generation: 1 }],
    });
    expect(stands(0, 8)).toBe(true);
  });

  test('goes through another slot of its VM in a range, and through its own beside it', async () => {
    const { client, memory, read, write, stands, entry, lines } = await stored(
      withSlotFrom('device-table'),
    );
    expect((await entry())?.ranges).toBeUndefined();
    expect(await client.ask('bind-range', { ...inRange, slot: `${SECOND}` })).toMatchObject({
      entry: {
        ...{ slotFrom: 'translation' },
        ranges: [
          { start: '0x0', slot: 1 },
          { start: '0x102000', bytes: 2 * PAGE, slot: SECOND, generation: 1 },
          { start: '0x104000', slot: 1 },
        ],
      },
    });
    // One DMA over the range and its neighbours: each part through its own slot.
    const all = read(0, 8);
    expect(all.subarray(0, 2 * PAGE).equals(content.subarray(0, 2 * PAGE))).toBe(true);
    expect(all.subarray(2 * PAGE, 4 * PAGE).includes(text)).toBe(false);
    expect(all.subarray(4 * PAGE).equals(content.subarray(4 * PAGE))).toBe(true);
    // What it writes there is under the second slot: right for it, noise for the CPU.
    write(2, content.subarray(0, PAGE));
    expect(read(2).equals(content.subarray(0, PAGE))).toBe(true);
    expect(Buffer.from(memory.read(GPA + 2 * PAGE, PAGE)).includes(text)).toBe(false);

    // Revoked, the one range is closed and the others are not.
    await client.ask('key-revoke', { slot: `${SECOND}` });
    expect(() => read(2)).toThrow();
    expect(stands(0, 2) && stands(4, 4)).toBe(true);
    // Made anew, it is not what the range was bound to.
    await client.ask('key-destroy', { slot: `${SECOND}` });
    await client.ask('key-generate', { slot: SECOND, vm: 'alpha' });
    await client.ask('key-activate', { slot: SECOND });
    expect(() => read(2)).toThrow();

    const binding = { event: 'binding', rid: RID, vm: 1, slotFrom: 'translation' };
    const refused = { event: 'refused', rid: RID, vm: 1, slot: SECOND, iova: '0x102000' };
    expect(lines().filter(({ event }) => event !== 'key')).toMatchObject([
      { ...binding, slot: null, reason: 'changed' },
      {
        ...{ ...binding, slot: SECOND, generation: 1, reason: 'range-bound' },
        ...{ address: '0x102000', bytes: 2 * PAGE },
      },
      { ...refused, reason: 'slot-not-active' },
      { ...refused, reason: 'slot-of-another-generation' },
    ]);
  });

  test('goes by the device table again once it is bound to one slot for all', async () => {
    const { client, stands, entry } = await stored(withSlotFrom('translation'));
    await client.ask('bind-range', { ...inRange, slot: `${SECOND}` });
    expect(stands(2)).toBe(false);
    await client.ask('bind', { rid: RID, target: 'alpha' });
    expect(await entry()).toMatchObject({ slotFrom: 'device-table', slot: 1 });
    expect(await entry()).not.toHaveProperty('ranges');
    expect(stands(0, 8)).toBe(true);
    // And by a new translation after that, of which the old ranges are no part.
    await client.ask('bind-range', { ...inRange, bytes: PAGE, slot: 'alpha' });
    expect((await entry())?.ranges).toMatchObject([{ start: '0x0', slot: 1 }]);
    expect(stands(0, 8)).toBe(true);
  });

  test('reaches shared pages in the clear in a range, and private ones by the key beside it', async () => {
    const { client, read, write, memory, stands } = await stored(withSlotFrom('device-table'));
    const { address, bytes } = inRange;
    await client.ask('pages-share', { vm: 'alpha', address, bytes, keep: true });
    await client.ask('bind-range', { ...inRange, clear: true });
    expect(stands(0, 8)).toBe(true);
    write(3, Buffer.alloc(PAGE, 'shared '));
    expect(Buffer.from(memory.read(GPA + 3 * PAGE, 7)).toString()).toBe('shared ');
    expect(read(3).subarray(0, 7).toString()).toBe('shared ');
  });

  test('is not bound to what cannot be, and stays as it is', async () => {
    const config = vmsOf({ name: 'alpha' }, { name: 'beta' }, { name: 'gamma', iommu: 'virtio' });
    const { client, stands, entry, lines } = await stored(config);
    const before = await entry();
    const bind = (fields: object) => client.ask('bind-range', { ...inRange, ...fields });
    await expect(bind({ slot: '2' })).rejects.toThrow(/slot of VM 1, .*got slot 2, .*VM 2's/);
    await expect(bind({ slot: 'beta' })).rejects.toThrow(/slot of VM 1, .*VM 2's/);
    await expect(bind({ slot: '9' })).rejects.toThrow(/got slot 9, which is empty/);
    await expect(bind({})).rejects.toThrow(/a slot or clear, got neither/);
    await expect(bind({ slot: '1', clear: true })).rejects.toThrow(/got both/);
    await expect(bind({ slot: '1', address: 0x1001 })).rejects.toThrow(/multiple of 4096/);
    await expect(bind({ slot: '1', rid: '0000:00:06.0' })).rejects.toThrow(/which is none's/);
    await expect(bind({ slot: 'gamma', rid: '0002:00:04.0' })).rejects.toThrow(
      /iommu: identity.*got gamma, whose guest makes them/,
    );
    expect(await entry()).toEqual(before);
    expect(stands(0, 8)).toBe(true);
    expect(lines().filter(({ event }) => event === 'binding')).toEqual([]);
  });
});
