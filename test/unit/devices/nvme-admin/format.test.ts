import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Namespace } from '../../../../src/devices/nvme/namespace.ts';
import type { Outcome } from '../../../../src/devices/nvme/status.ts';
import { bench, command, MIB, type Step, StorageDouble, turn } from './admin-bench.ts';

const BROADCAST = 0xffff_ffff;
const LBAF_512 = 0;
const LBAF_4096 = 1;
const USER_DATA_ERASE = 1 << 9;
const CRYPTOGRAPHIC_ERASE = 2 << 9;
const NAMESPACE_CHANGED = 0x04_00_02;

const format = (nsid: number, dword10: number, cid = 1) => ({ opcode: 0x80, cid, nsid, dword10 });

/** FPI of Identify Namespace: bit 7, and the percentage that remains. */
async function progress({ dataOf }: Pick<ReturnType<typeof bench>, 'dataOf'>, nsid: number) {
  return (await dataOf({ opcode: 0x06, nsid, dword10: 0 })).getUint8(32);
}

/** Whether the steps cover each byte once, from 0 on, and a flush comes last. */
function erases(steps: readonly Step[], kind: Step['kind'], bytes: number): void {
  let end = 0;
  for (const step of steps.slice(0, -1)) {
    expect(step.kind).toBe(kind);
    expect(step.offset).toBe(end);
    expect(step.length).toBeGreaterThan(0);
    end += step.length;
  }
  expect(end).toBe(bytes);
  expect(steps.at(-1)).toEqual({ kind: 'flush', offset: 0, length: 0 });
}

describe('Format NVM', () => {
  it('gives the namespace its format, erased, while I/O is held back', async () => {
    const set = bench();
    const { admin, host, namespaces, storages } = set;
    storages[1].held = true;
    const answer = admin.execute(command(format(1, LBAF_4096)));
    expect(answer).toBeInstanceOf(Promise);
    expect(storages[1].steps).toEqual([]);
    await turn();
    await turn();
    expect([...host.quiesced]).toEqual([1]);
    expect(storages[1].waiting).toBe(1);
    expect(await progress(set, 1)).toBe(0x80 | 100);
    expect(namespaces[0].blockBytes).toBe(512);
    await storages[1].finishOne();
    expect(namespaces[0].blockBytes).toBe(512);
    await storages[1].finishOne();
    expect(await answer).toEqual({ status: 0 });
    expect(namespaces[0].blockBytes).toBe(4096);
    expect(namespaces[0].blocks).toBe(2048);
    // The last 100 bytes are in no block of either size.
    erases(storages[1].steps, 'discard', 8 * MIB);
    expect(storages[2].steps).toEqual([]);
    expect([...host.quiesced]).toEqual([]);
    expect(await progress(set, 1)).toBe(0x80);
  });

  it.each([
    ['discards, without secure erase', 1, 0, 'discard'],
    ['discards, for a user data erase', 1, USER_DATA_ERASE, 'write-zeroes'],
    ['does not discard', 2, 0, 'write-zeroes'],
  ] as const)('erases a storage that %s', async (_name, nsid, erase, kind) => {
    const { statusOf, storages } = bench();
    expect(await statusOf(format(nsid, LBAF_512 | erase))).toBe(0);
    erases(storages[nsid].steps, kind, nsid === 1 ? 8 * MIB : 64 * MIB);
  });

  it('erases with zeros what a storage could not discard after all', async () => {
    const storage = new StorageDouble(2048 * MIB);
    storage.held = true;
    const { admin } = bench({ namespaces: [new Namespace(1, storage)] });
    const answer = admin.execute(command(format(1, LBAF_512)));
    await turn();
    await turn();
    await storage.finishOne();
    storage.refusesHoles = true;
    storage.held = false;
    await storage.finishOne();
    expect(await answer).toEqual({ status: 0 });
    const [first, second, ...rest] = storage.steps;
    expect(first).toEqual({ kind: 'discard', offset: 0, length: 1024 * MIB });
    expect(second).toEqual({ kind: 'discard', offset: 1024 * MIB, length: 1024 * MIB });
    const fromHalf = rest.map((step) => ({ ...step, offset: step.offset - 1024 * MIB }));
    erases([...fromHalf.slice(0, -1), rest.at(-1)!], 'write-zeroes', 1024 * MIB);
  });

  it('erases in pieces of a bounded size, all of it, whatever the size', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(fc.nat({ max: 10_000 }), fc.nat({ max: 8 * 1024 * MIB })),
        fc.boolean(),
        async (bytes, discards) => {
          const storage = new StorageDouble(bytes, { discards });
          const { statusOf } = bench({ namespaces: [new Namespace(1, storage)] });
          expect(await statusOf(format(1, LBAF_4096))).toBe(0);
          erases(
            storage.steps,
            discards ? 'discard' : 'write-zeroes',
            Math.floor(bytes / 512) * 512,
          );
          expect(Math.max(0, ...storage.steps.map(({ length }) => length))).toBeLessThanOrEqual(
            1024 * MIB,
          );
        },
      ),
      { numRuns: 50 },
    );
  });

  it('tells how much remains', async () => {
    const storage = new StorageDouble(256 * MIB, { discards: false });
    storage.held = true;
    const set = bench({ namespaces: [new Namespace(1, storage)] });
    const answer = set.admin.execute(command(format(1, LBAF_512)));
    await turn();
    await turn();
    const seen: number[] = [];
    for (let step = 0; step < 5; step++) {
      seen.push((await progress(set, 1)) & 0x7f);
      await storage.finishOne();
    }
    expect(await answer).toEqual({ status: 0 });
    expect(seen).toEqual([100, 75, 50, 25, 25]);
  });

  it('never tells that nothing remains before it is done', async () => {
    const storage = new StorageDouble(200 * 64 * MIB, { discards: false });
    storage.held = true;
    const set = bench({ namespaces: [new Namespace(1, storage)] });
    const answer = set.admin.execute(command(format(1, LBAF_512)));
    await turn();
    await turn();
    for (let step = 0; step < 199; step++) await storage.finishOne();
    expect(await progress(set, 1)).toBe(0x80 | 1);
    await storage.finishOne();
    await storage.finishOne();
    expect(await answer).toEqual({ status: 0 });
    expect(await progress(set, 1)).toBe(0x80);
  });

  it('raises the event that attributes changed, and lists the namespace', async () => {
    const { admin, host, statusOf, dataOf } = bench();
    await statusOf({ opcode: 0x09, dword10: 0x0b, dword11: 1 << 8 });
    expect(admin.execute(command({ opcode: 0x0c, cid: 77 }))).toBe('pending');
    await statusOf(format(2, LBAF_512));
    expect(host.completions).toEqual([[77, { status: 0, dword0: NAMESPACE_CHANGED }]]);
    const changed = await dataOf({ opcode: 0x02, dword10: (1023 << 16) | 0x04 });
    expect([changed.getUint32(0, true), changed.getUint32(4, true)]).toEqual([2, 0]);
  });

  it('of NSID FFFFFFFFh formats all namespaces', async () => {
    const storages = [new StorageDouble(MIB), new StorageDouble(2 * MIB)];
    const namespaces = storages.map((storage, i) => new Namespace(i + 1, storage));
    const { statusOf } = bench({ namespaces });
    expect(await statusOf(format(BROADCAST, LBAF_4096))).toBe(0);
    for (const storage of storages) erases(storage.steps, 'discard', storage.bytes);
    expect(namespaces.map(({ blockBytes }) => blockBytes)).toEqual([4096, 4096]);
  });

  it.each([
    ['NSID 0', format(0, LBAF_512), 0x00b],
    ['an NSID above all', format(6, LBAF_512), 0x00b],
    ['an inactive NSID', format(3, LBAF_512), 0x002],
    ['an LBA format that is not there', format(1, 2), 0x10a],
    ['the last LBA format', format(1, 15), 0x10a],
    ['protection information', format(1, LBAF_512 | (1 << 5)), 0x10a],
    ['a cryptographic erase', format(1, LBAF_512 | CRYPTOGRAPHIC_ERASE), 0x002],
    ['a reserved secure erase', format(1, LBAF_512 | (7 << 9)), 0x002],
    ['a read-only namespace', format(5, LBAF_512), 0x020],
    ['all namespaces, one of them read-only', format(BROADCAST, LBAF_512), 0x020],
  ])('refuses %s', async (_name, entry, status) => {
    const { statusOf, storages, host } = bench();
    expect(await statusOf(entry)).toBe(status);
    await turn();
    for (const storage of Object.values(storages)) expect(storage.steps).toEqual([]);
    expect([...host.quiesced]).toEqual([]);
  });

  it('refuses a namespace that Write Protection protects', async () => {
    const { statusOf, namespaces } = bench();
    namespaces[0].writeProtected = true;
    expect(await statusOf(format(1, LBAF_512))).toBe(0x020);
  });

  it('refuses a second format of the namespace while the first is under way', async () => {
    const { admin, storages, statusOf } = bench();
    storages[1].held = true;
    const first = admin.execute(command(format(1, LBAF_512)));
    expect(await statusOf(format(1, LBAF_4096, 2))).toBe(0x084);
    expect(await statusOf(format(2, LBAF_4096, 3))).toBe(0);
    await turn();
    await storages[1].finishOne();
    await storages[1].finishOne();
    expect(await first).toEqual({ status: 0 });
    storages[1].held = false;
    expect(await statusOf(format(1, LBAF_4096, 4))).toBe(0);
  });

  it.each(['discard', 'flush'] as const)(
    'fails where %s fails, and keeps the format',
    async (kind) => {
      const { statusOf, storages, namespaces, host, dataOf } = bench();
      storages[1].failing = kind;
      expect(await statusOf(format(1, LBAF_4096))).toBe(0x006);
      expect(namespaces[0].blockBytes).toBe(512);
      expect([...host.quiesced]).toEqual([]);
      expect(await progress({ dataOf }, 1)).toBe(0x80);
      storages[1].failing = undefined;
      expect(await statusOf(format(1, LBAF_4096))).toBe(0);
    },
  );

  it('fails where I/O cannot be held back', async () => {
    const { host, statusOf, storages } = bench();
    host.quiesce = () => Promise.reject(new Error('the controller is gone'));
    expect(await statusOf(format(1, LBAF_4096))).toBe(0x006);
    expect(storages[1].steps).toEqual([]);
  });

  it('stops at the next piece where a reset comes, and gives the namespace back', async () => {
    const storage = new StorageDouble(256 * MIB, { discards: false });
    const namespaces = [new Namespace(1, storage)];
    const { admin, host, statusOf } = bench({ namespaces });
    storage.held = true;
    const answer = Promise.resolve(admin.execute(command(format(1, LBAF_4096))));
    await turn();
    await turn();
    admin.reset();
    // The kernel still has the piece: no I/O, and no other format, until it is done.
    expect([...host.quiesced]).toEqual([1]);
    expect(await statusOf(format(1, LBAF_512))).toBe(0x084);
    await storage.finishOne();
    const outcome = (await answer) as Outcome;
    expect(outcome.status).not.toBe(0);
    expect(storage.steps).toHaveLength(1);
    expect(namespaces[0]!.blockBytes).toBe(512);
    expect([...host.quiesced]).toEqual([]);
    storage.held = false;
    expect(await statusOf(format(1, LBAF_4096))).toBe(0);
    erases(storage.steps.slice(1), 'write-zeroes', storage.bytes);
  });

  it('starts nothing where a reset comes before I/O is held back', async () => {
    const { admin, host, storages } = bench();
    const answer = Promise.resolve(admin.execute(command(format(1, LBAF_4096))));
    admin.reset();
    expect(((await answer) as Outcome).status).not.toBe(0);
    expect(storages[1].steps).toEqual([]);
    expect([...host.quiesced]).toEqual([]);
  });
});
