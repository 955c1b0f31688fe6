/**
 * The whole matrix: what a function's entry or mapping says × read and write × both ways of finding the slot,
 * each as one access and as one of a batch, on a platform with three VMs, sealed memory and a real controller.
 */
import { createHash } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Edu } from '../../../src/devices/edu/edu.ts';
import type { DeviceTableEntry } from '../../../src/iommu/device-table.ts';
import { type AccessSlot, IN_CLEAR, type KeySlot, keySlot } from '../../../src/keys/key-slot.ts';
import type { Machine } from '../../../src/machine/machine.ts';
import { gpa } from '../../../src/memory/guest-memory.ts';
import {
  DmaAbort,
  type DmaAccess,
  type DmaDirection,
  type DmaPort,
} from '../../../src/pci/dma-port.ts';
import { noSealedRam } from '../memory/sealed-bench.ts';
import { matrix, type Outcome, type Row, type RowName, type SlotFrom } from './matrix.ts';
import { BYTES, GPA, PAGE, Vms } from './vms.ts';

const missing = noSealedRam();
if (missing !== undefined) process.stderr.write(`${missing}\n`);

const EMPTY = keySlot(100);
const REVOKED = keySlot(101);
const DESTROYED = keySlot(102);
/** Another one of the same VM, to be filled again and again. */
const SPARE = keySlot(103);

/** An access lies in the middle of a page, on no block's border. */
const AT = 100;
const LENGTH = 300;

type Plugged = Awaited<ReturnType<Vms['plug']>>;

interface Platform3 {
  readonly vms: Vms;
  readonly one: Machine;
  readonly two: Machine;
  readonly others: readonly Machine[];
  readonly function: Plugged;
}

let bench: Platform3;

beforeAll(async () => {
  if (missing !== undefined) return;
  const vms = await Vms.on('sealed');
  const one = await vms.machine();
  const two = await vms.machine();
  const three = await vms.machine();
  const its = await vms.plug(one, new Edu());
  for (const machine of [two, three]) {
    const { vmm } = await vms.plug(machine, new Edu());
    vmm.memory.write(GPA, secret(BYTES));
  }
  its.vmm.memory.write(GPA, secret(BYTES));
  await one.addSlot(REVOKED, one.vm);
  await one.keys.revoke(REVOKED);
  await one.addSlot(DESTROYED, one.vm);
  await one.keys.destroy(DESTROYED);
  bench = { vms, one, two, others: [two, three], function: its };
});

afterAll(async () => {
  await bench?.vms[Symbol.asyncDispose]();
});

/** The same in each VM, so that a leak between them is not to be told from its own data by its value alone. */
function secret(length: number, from = 0): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (Math.imul(from + i, 2654435761) >>> 24) & 0xff);
}

async function digest(machine: Machine): Promise<string> {
  await machine.sealed?.flush();
  return createHash('sha256')
    .update(machine.sealed?.dram() ?? new Uint8Array())
    .digest('hex');
}

interface Arranged {
  readonly port: DmaPort;
  readonly iova: number;
  /** What lies there, as who may read it sees it. */
  readonly content: Uint8Array;
  /** Which page of VM 1 that is, where it is one. */
  readonly page: number | undefined;
  readonly undo?: () => Promise<void> | void;
}

type Entry = Pick<DeviceTableEntry, 'rights'>;

/** Points the function's entry at a table of its own, with all of the VM's memory but what is said of one page. */
function point(
  from: SlotFrom,
  page: number,
  what: {
    readonly slot?: AccessSlot | undefined;
    readonly mapping?: { readonly slot?: AccessSlot | undefined; readonly rights?: 'read' };
    /** Of the slot, when it was named. */
    readonly generation?: number;
    readonly entry?: Partial<Entry>;
    readonly mapped?: boolean;
    readonly plugged?: Plugged['plugged'];
  } = {},
): Arranged {
  const { one, function: its } = bench;
  const { rid, port } = what.plugged ?? its.plugged;
  const slot = what.slot ?? one.slot;
  const table = one.iommu.hostDomain();
  const base = { domain: table, vm: one.vm, rights: 'read-write', ...what.entry } as const;
  // In the clear is the mapping's to say, whichever way the slot is found.
  const inMapping = from === 'translation' || slot === IN_CLEAR ? slot : undefined;
  if (what.mapped ?? true) {
    const { generation } = what;
    const named = { slot: inMapping, generation, ...what.mapping };
    table.map({ start: GPA + page * PAGE, bytes: PAGE, ...named });
  }
  one.iommu.table.set(
    rid,
    from === 'translation'
      ? { ...base, slotFrom: from }
      : {
          ...{ ...base, slotFrom: from, generation: what.generation },
          slot: slot === IN_CLEAR ? one.slot : slot,
        },
  );
  const iova = GPA + page * PAGE + AT;
  return { port, iova, page, content: secret(LENGTH, page * PAGE + AT) };
}

let nextPage = 1;

/** A page that no other case has. */
function newPage(): number {
  return nextPage++;
}

const arrange: Record<RowName, (from: SlotFrom) => Promise<Arranged> | Arranged> = {
  'the VM’s own slot': (from) => point(from, newPage()),
  'another VM’s slot': (from) => point(from, newPage(), { slot: bench.two.slot }),
  'an empty slot': (from) => point(from, newPage(), { slot: EMPTY }),
  'a revoked slot': (from) => point(from, newPage(), { slot: REVOKED }),
  'a destroyed slot': (from) => point(from, newPage(), { slot: DESTROYED }),
  'no device-table entry': (from) => {
    const arranged = point(from, newPage());
    bench.one.iommu.table.delete(bench.function.plugged.rid);
    return arranged;
  },
  'bus mastering off': (from) => {
    const { port } = bench.function.plugged;
    port.busMaster = false;
    const undo = () => {
      port.busMaster = true;
    };
    return { ...point(from, newPage()), undo };
  },
  'a read-only mapping': (from) => point(from, newPage(), { mapping: { rights: 'read' } }),
  'a read-only entry': (from) => point(from, newPage(), { entry: { rights: 'read' } }),
  'an address that is not mapped': (from) => point(from, newPage(), { mapped: false }),
  'an address outside memory': (from) => ({ ...point(from, BYTES / PAGE), page: undefined }),
  'a mapping that names a slot, unasked': (from) =>
    point(from, newPage(), { mapping: { slot: bench.one.slot } }),
  'a mapping that names no slot': (from) =>
    point(from, newPage(), { mapping: { slot: undefined } }),
  'in the clear, a shared page': async (from) => {
    const page = await sharedPage();
    return point(from, page, { slot: IN_CLEAR });
  },
  'through a key, a shared page': async (from) => point(from, await sharedPage()),
  'in the clear, a private page': (from) => point(from, newPage(), { slot: IN_CLEAR }),
  'a slot that was destroyed and filled again since it was named': async (from) => {
    const { slots } = bench.one;
    await refill(SPARE);
    const page = newPage();
    const generation = slots.generation(SPARE);
    const arranged = point(from, page, { slot: SPARE, generation });
    // As long as the key is the one that was meant, and after a rotation of it, the DMA is done.
    arranged.port.writeFrom(GPA + page * PAGE, secret(PAGE, page * PAGE));
    await bench.one.keys.rotate(SPARE);
    await bench.one.keys.rotated(SPARE);
    arranged.port.readInto(arranged.iova, new Uint8Array(LENGTH));
    await refill(SPARE);
    return arranged;
  },
  'a slot whose key is of another generation than the data': async (from) => {
    const { one } = bench;
    const page = newPage();
    await refill(SPARE);
    const arranged = point(from, page, { slot: SPARE });
    arranged.port.writeFrom(GPA + page * PAGE, secret(PAGE, page * PAGE));
    const before = one.slots.generation(SPARE);
    await refill(SPARE);
    expect(one.slots.generation(SPARE)).toBe(before + 1);
    return arranged;
  },
  'a function that was moved to another VM': async (from) => {
    const { vms, one, two } = bench;
    const { plugged } = await vms.plug(one, new Edu(), '00:09.0');
    const arranged = point(from, newPage(), { plugged });
    expect(plugged.port.readInto(arranged.iova, new Uint8Array(4))).toBeUndefined();
    const moved = await vms.platform.move(plugged, two, { endpoint: new Edu() });
    return { ...arranged, undo: () => two.unplug(moved) };
  },
};

async function sharedPage(): Promise<number> {
  const page = newPage();
  const range = { address: gpa(GPA + page * PAGE), bytes: PAGE };
  await bench.one.share(range, { keep: true });
  return page;
}

async function refill(slot: KeySlot): Promise<void> {
  const { one } = bench;
  await one.keys.destroy(slot);
  await one.addSlot(slot, one.vm);
}

const ways = ['alone', 'in a batch'] as const;

/** The access; answers the refusal. */
function act(
  port: DmaPort,
  direction: DmaDirection,
  iova: number,
  bytes: Uint8Array,
  way: (typeof ways)[number],
): string | undefined {
  if (way === 'in a batch') {
    const access: DmaAccess = { iova, bytes, abort: undefined };
    if (direction === 'read') port.readBatch([access], 1);
    else port.writeBatch([access], 1);
    return (access as { abort: DmaAbort | undefined }).abort?.reason;
  }
  try {
    if (direction === 'read') port.readInto(iova, bytes);
    else port.writeFrom(iova, bytes);
    return undefined;
  } catch (error) {
    if (error instanceof DmaAbort) return error.reason;
    throw error;
  }
}

/** How many 16-byte pieces of one lie anywhere in the other. */
function piecesIn(of: Uint8Array, inside: Uint8Array): number {
  const haystack = Buffer.from(inside);
  let found = 0;
  for (let at = 0; at + 16 <= of.length; at++) {
    if (haystack.includes(Buffer.from(of.subarray(at, at + 16)))) found++;
  }
  return found;
}

function expectedRecords(outcome: Outcome): { reason: string; refused: boolean }[] {
  if (outcome === 'done') return [];
  if ('refused' in outcome) return [{ reason: outcome.refused, refused: true }];
  return outcome.noise === 'no record' ? [] : [{ reason: outcome.noise, refused: false }];
}

const cases = matrix.flatMap((row: Row & { readonly name: RowName }) =>
  (['device-table', 'translation'] as const)
    .filter((from) => row.only === undefined || row.only === from)
    .flatMap((from) =>
      (['read', 'write'] as const).flatMap((direction) =>
        ways.map((way) => ({ row, from, direction, way })),
      ),
    ),
);

describe.skipIf(missing !== undefined)('a function of one of three VMs', () => {
  test.each(cases)(
    '$row.name, slot from the $from: $direction $way',
    async ({ row, from, direction, way }) => {
      const { one, others, function: its } = bench;
      const { faults } = one.iommu;
      const outcome = row[direction];
      const arranged = await arrange[row.name](from);
      const { port, iova, content, page } = arranged;
      const seen = () => its.vmm.memory.read(GPA, BYTES);
      const pageAt = (page ?? 0) * PAGE;
      const withoutPage = (bytes: Uint8Array) => {
        const copy = Buffer.from(bytes);
        return page === undefined ? copy : copy.fill(0, pageAt, pageAt + PAGE);
      };

      const digests = await Promise.all([...others, one].map(digest));
      const before = Buffer.from(seen());
      const { total } = faults;
      const buffer = new Uint8Array(LENGTH).fill(0x5c);
      const reason = act(port, direction, iova, buffer, way);
      const records = faults.since(total);
      const after = Buffer.from(seen());
      const digestsAfter = await Promise.all([...others, one].map(digest));

      // Whatever it was, the other VMs have what they had.
      expect(digestsAfter.slice(0, 2)).toEqual(digests.slice(0, 2));
      expect(records.map((record) => ({ reason: record.reason, refused: record.refused }))).toEqual(
        expectedRecords(outcome),
      );
      for (const record of records) {
        expect(record).toMatchObject({ rid: port.rid, direction, iova, length: LENGTH });
        const entryGone =
          row.name === 'no device-table entry' ||
          row.name === 'a function that was moved to another VM';
        expect(record.vm).toBe(entryGone ? undefined : one.vm);
      }
      if (outcome !== 'done' && 'refused' in outcome) {
        expect(reason).toBe(outcome.refused);
        expect([...new Set(buffer)]).toEqual([0x5c]);
        expect(digestsAfter[2]).toBe(digests[2]);
        expect(after.equals(before)).toBe(true);
      } else if (outcome === 'done') {
        expect(reason).toBeUndefined();
        if (direction === 'read') {
          expect(Buffer.compare(buffer, content)).toBe(0);
          expect(digestsAfter[2]).toBe(digests[2]);
        } else {
          before.set(buffer, pageAt + AT);
          expect(after.equals(before)).toBe(true);
        }
      } else {
        expect(reason).toBeUndefined();
        if (direction === 'read') {
          expect(piecesIn(content, buffer)).toBe(0);
          expect(digestsAfter[2]).toBe(digests[2]);
        } else {
          // Noise for who owns the page; every other page is as it was.
          expect(piecesIn(buffer, after.subarray(pageAt, pageAt + PAGE))).toBe(0);
          expect(withoutPage(after).equals(withoutPage(before))).toBe(true);
        }
      }
      await arranged.undo?.();
    },
  );
});
