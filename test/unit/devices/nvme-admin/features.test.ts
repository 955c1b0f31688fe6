import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bench, command, type Entry, turn } from './admin-bench.ts';

const BROADCAST = 0xffff_ffff;

const get = (feature: number, more: Partial<Entry> & { select?: number } = {}): Entry => ({
  opcode: 0x0a,
  ...more,
  dword10: feature | ((more.select ?? 0) << 8),
});
const set = (feature: number, value: number, more: Partial<Entry> = {}): Entry => ({
  opcode: 0x09,
  dword10: feature,
  dword11: value,
  ...more,
});

const CURRENT = 0;
const DEFAULT = 1;
const SAVED = 2;
const CAPABILITIES = 3;

interface Known {
  readonly name: string;
  readonly feature: number;
  /** Value that dword 11 sets, and dword 0 of Get Features thereafter. */
  readonly value: number;
  readonly byDefault: number;
  readonly namespaceSpecific?: true;
  /** Dword 11 of Get Features, where it selects something. */
  readonly argument?: number;
  /** Value read back, where it is not the one set. */
  readonly reads?: number;
}

/** The features whose value is dword 0, with 16 queues, 17 vectors and all else as Identify says. */
const KNOWN: readonly Known[] = [
  { name: 'Arbitration', feature: 0x01, value: 0x0403_0202, byDefault: 7 },
  { name: 'Power Management', feature: 0x02, value: 0x20, byDefault: 0 },
  { name: 'Temperature Threshold, over', feature: 0x04, value: 350, byDefault: 343 },
  {
    name: 'Temperature Threshold, under',
    feature: 0x04,
    value: (1 << 20) | 280,
    byDefault: 0,
    argument: 1 << 20,
    reads: 280,
  },
  { name: 'Error Recovery', feature: 0x05, value: 77, byDefault: 0, namespaceSpecific: true },
  { name: 'Volatile Write Cache', feature: 0x06, value: 0, byDefault: 1 },
  { name: 'Number of Queues', feature: 0x07, value: 0x0003_0004, byDefault: 0x000f_000f },
  { name: 'Interrupt Coalescing', feature: 0x08, value: 0x1407, byDefault: 0 },
  {
    name: 'Interrupt Vector Configuration',
    feature: 0x09,
    value: 0x1_0010,
    byDefault: 0x10,
    argument: 0x10,
  },
  { name: 'Write Atomicity Normal', feature: 0x0a, value: 1, byDefault: 0 },
  { name: 'Async Event Configuration', feature: 0x0b, value: 0x11f, byDefault: 0 },
  {
    name: 'Namespace Write Protection',
    feature: 0x84,
    value: 1,
    byDefault: 0,
    namespaceSpecific: true,
  },
];
const TIMESTAMP = 0x0e;

describe.each(KNOWN)('$name', (known) => {
  const nsid = known.namespaceSpecific ? 1 : 0;
  const { feature, value, byDefault } = known;
  const got = (select: number) =>
    get(feature, { nsid, select, ...(known.argument && { dword11: known.argument }) });

  it('has its default, takes a value, and is at its default after a reset', async () => {
    const { admin, run } = bench();
    const valueIn = async (select: number) => {
      const { status, dword0 } = await run(got(select));
      expect(status).toBe(0);
      return dword0 ?? 0;
    };
    expect(await valueIn(CURRENT)).toBe(byDefault);
    expect((await run(set(feature, value, { nsid }))).status).toBe(0);
    expect(await valueIn(CURRENT)).toBe(known.reads ?? value);
    expect(await valueIn(DEFAULT)).toBe(byDefault);
    expect(await valueIn(SAVED)).toBe(byDefault);
    admin.reset();
    // §8.19: write protection outlasts a controller level reset.
    expect(await valueIn(CURRENT)).toBe(feature === 0x84 ? value : byDefault);
  });

  it('tells its capabilities: changeable, not saveable', async () => {
    const { run } = bench();
    const specific = known.namespaceSpecific ? 0b010 : 0;
    expect(await run(got(CAPABILITIES))).toEqual({ status: 0, dword0: 0b100 | specific });
  });

  it('cannot be saved', async () => {
    const { run, statusOf } = bench();
    const saved = { nsid, dword10: (feature | (1 << 31)) >>> 0 };
    expect(await statusOf(set(feature, value, saved))).toBe(0x10d);
    expect((await run(got(CURRENT))).dword0).toBe(byDefault);
  });

  it('is looked up by the rules for its scope', async () => {
    const { statusOf } = bench();
    if (known.namespaceSpecific) {
      for (const [bad, status] of [
        [0, 0x00b],
        [6, 0x00b],
        [3, 0x002],
      ] as const) {
        expect(await statusOf(get(feature, { nsid: bad }))).toBe(status);
        expect(await statusOf(set(feature, value, { nsid: bad }))).toBe(status);
      }
      expect(await statusOf(get(feature, { nsid: BROADCAST }))).toBe(0x00b);
    } else {
      expect(await statusOf(set(feature, value, { nsid: 1 }))).toBe(0x10f);
      expect(await statusOf(set(feature, value, { nsid: 6 }))).toBe(0x00b);
      expect(await statusOf(set(feature, value, { nsid: BROADCAST }))).toBe(0);
      expect(await statusOf({ ...got(CURRENT), nsid: 1 })).toBe(0);
    }
  });
});

describe('Get and Set Features', () => {
  it('refuse what is not there with Invalid Field, saved or not', async () => {
    const { statusOf } = bench();
    const had = new Set([...KNOWN.map(({ feature }) => feature), TIMESTAMP]);
    for (let feature = 0; feature < 256; feature++) {
      if (had.has(feature)) continue;
      for (const select of [CURRENT, DEFAULT, SAVED, CAPABILITIES]) {
        expect(await statusOf(get(feature, { select }))).toBe(0x002);
      }
      expect(await statusOf(set(feature, 0))).toBe(0x002);
      expect(await statusOf(set(feature, 0, { dword10: (feature | (1 << 31)) >>> 0 }))).toBe(0x002);
    }
  });

  it('refuse the reserved values of Select', async () => {
    const { statusOf } = bench();
    for (const select of [4, 5, 6, 7]) {
      for (const { feature } of KNOWN) {
        expect(await statusOf(get(feature, { nsid: 1, select }))).toBe(0x002);
      }
    }
  });

  it.each([
    ['a power state that is not there', 0x02, 0x01],
    ['a temperature sensor that is not there', 0x04, 1 << 16],
    ['a reserved threshold type', 0x04, 2 << 20],
    ['65536 submission queues', 0x07, 0x0000_ffff],
    ['65536 completion queues', 0x07, 0xffff_0000],
    ['a vector that is not there', 0x09, 17],
  ])('refuse %s', async (_name, feature, value) => {
    const { statusOf } = bench();
    expect(await statusOf(set(feature, value))).toBe(0x002);
  });

  it('read no vector, sensor or type that is not there', async () => {
    const { statusOf } = bench();
    expect(await statusOf(get(0x09, { dword11: 17 }))).toBe(0x002);
    for (const dword11 of [1 << 16, 0xf << 16, 2 << 20, 3 << 20]) {
      expect(await statusOf(get(0x04, { dword11 }))).toBe(0x002);
    }
  });

  it('take a temperature threshold for all sensors', async () => {
    const { statusOf, run } = bench();
    expect(await statusOf(set(0x04, (0xf << 16) | 340))).toBe(0);
    expect((await run(get(0x04))).dword0).toBe(340);
  });
});

describe('Number of Queues', () => {
  it('grants what is asked, at most what there is', async () => {
    const wanted = fc.integer({ min: 0, max: 0xfffe });
    await fc.assert(
      fc.asyncProperty(wanted, wanted, async (submission, completion) => {
        const { admin, run } = bench();
        const { status, dword0 } = await run(set(0x07, ((completion << 16) | submission) >>> 0));
        expect(status).toBe(0);
        expect(dword0! & 0xffff).toBe(Math.min(submission, 15));
        expect(dword0! >>> 16).toBe(Math.min(completion, 15));
        expect(admin.features.ioSubmissionQueues).toBe(Math.min(submission, 15) + 1);
        expect(admin.features.ioCompletionQueues).toBe(Math.min(completion, 15) + 1);
        expect((await run(get(0x07))).dword0).toBe(dword0);
      }),
    );
  });

  it('is refused once there are I/O queues, until a reset', async () => {
    const { admin, statusOf } = bench();
    admin.features.ioQueuesCreated = true;
    expect(await statusOf(set(0x07, 0))).toBe(0x00c);
    expect(admin.features.ioSubmissionQueues).toBe(16);
    admin.reset();
    expect(await statusOf(set(0x07, 0))).toBe(0);
  });
});

describe('What the core reads', () => {
  it('is coalescing in completions and microseconds, by vector', async () => {
    const { admin, statusOf } = bench();
    const { features } = admin;
    expect([features.coalescingThreshold, features.coalescingMicroseconds]).toEqual([1, 0]);
    await statusOf(set(0x08, 0x0503));
    expect([features.coalescingThreshold, features.coalescingMicroseconds]).toEqual([4, 500]);
    await statusOf(set(0x09, 0x1_0002));
    expect([1, 2, 3].map((vector) => features.coalescingDisabled(vector))).toEqual([
      false,
      true,
      false,
    ]);
    await statusOf(set(0x09, 0x0_0002));
    expect(features.coalescingDisabled(2)).toBe(false);
  });

  it('is the arbitration burst as a count', async () => {
    const { admin, statusOf } = bench();
    expect(admin.features.arbitrationBurst).toBe(Number.POSITIVE_INFINITY);
    await statusOf(set(0x01, 3));
    expect(admin.features.arbitrationBurst).toBe(8);
  });
});

describe('Volatile Write Cache', () => {
  it('is flushed to each disk that can be written before it is off', async () => {
    const { admin, host, storages } = bench();
    storages[2].held = true;
    const answer = Promise.resolve(admin.execute(command(set(0x06, 0))));
    let done = false;
    void answer.then(() => {
      done = true;
    });
    await turn();
    expect(admin.features.writeCache).toBe(false);
    expect(storages[1].steps).toEqual([{ kind: 'flush', offset: 0, length: 0 }]);
    expect(storages[5].steps).toEqual([]);
    expect(done).toBe(false);
    await storages[2].finishOne();
    expect(await answer).toEqual({ status: 0 });
    expect(host.completions).toEqual([]);
  });

  it('stays on where a disk cannot be flushed', async () => {
    const { admin, statusOf, storages } = bench();
    storages[2].failing = 'flush';
    expect(await statusOf(set(0x06, 0))).toBe(0x006);
    expect(admin.features.writeCache).toBe(true);
  });

  it('is flushed by each command that turns it off, and by none that turns it on', async () => {
    const { admin, statusOf, storages } = bench();
    await statusOf(set(0x06, 0));
    await statusOf(set(0x06, 0));
    expect(storages[1].steps).toHaveLength(2);
    expect(admin.features.writeCache).toBe(false);
    await statusOf(set(0x06, 1));
    expect(storages[1].steps).toHaveLength(2);
    expect(admin.features.writeCache).toBe(true);
  });

  it('is as the last command left it, when the flush of an earlier one fails', async () => {
    const { admin, storages } = bench();
    storages[1].held = true;
    const answers = [1, 2].map((cid) => admin.execute(command({ ...set(0x06, 0), cid })));
    storages[1].failing = 'flush';
    await storages[1].finishOne();
    storages[1].failing = undefined;
    await storages[1].finishOne();
    expect(await Promise.all(answers)).toEqual([{ status: 0x006 }, { status: 0 }]);
    expect(admin.features.writeCache).toBe(false);
  });
});

describe('Error Recovery', () => {
  it('belongs to each namespace by itself, or is set for all at once', async () => {
    const { run, statusOf } = bench();
    const limits = async () =>
      Promise.all([1, 2, 5].map(async (nsid) => (await run(get(0x05, { nsid }))).dword0));
    await statusOf(set(0x05, 10, { nsid: 2 }));
    expect(await limits()).toEqual([0, 10, 0]);
    await statusOf(set(0x05, 20, { nsid: BROADCAST }));
    expect(await limits()).toEqual([20, 20, 20]);
  });

  it('refuses errors for deallocated blocks, which NSFEAT does not offer', async () => {
    const { statusOf } = bench();
    expect(await statusOf(set(0x05, 1 << 16, { nsid: 1 }))).toBe(0x002);
  });
});

describe('Timestamp', () => {
  const timestamp = (milliseconds: bigint) => {
    const data = new Uint8Array(8);
    new DataView(data.buffer).setBigUint64(0, milliseconds, true);
    return data;
  };
  const UNSET = 0;
  const FROM_HOST = 0b0010;

  it('counts on from what the host set, and from 0 before', async () => {
    const { admin, host, dataOf, statusOf } = bench();
    const read = async (select = CURRENT) => {
      const data = await dataOf(get(TIMESTAMP, { select }));
      expect([data.byteLength, data.getUint8(7)]).toEqual([8, 0]);
      return [data.getBigUint64(0, true) & 0xffff_ffff_ffffn, data.getUint8(6)];
    };
    host.uptimeMs = 250.5;
    expect(await read()).toEqual([250n, UNSET]);
    host.data = timestamp(1_764_000_000_123n);
    expect(await statusOf(set(TIMESTAMP, 0))).toBe(0);
    host.uptimeMs += 1000;
    expect(await read()).toEqual([1_764_000_001_123n, FROM_HOST]);
    expect(await read(DEFAULT)).toEqual([0n, UNSET]);
    expect(await read(SAVED)).toEqual([0n, UNSET]);
    admin.reset();
    host.uptimeMs += 7;
    expect(await read()).toEqual([7n, UNSET]);
  });

  it('has 48 bits, which run over', async () => {
    const { host, dataOf, statusOf } = bench();
    host.data = timestamp(0xabcd_ffff_ffff_ffffn);
    await statusOf(set(TIMESTAMP, 0));
    host.uptimeMs += 3;
    expect((await dataOf(get(TIMESTAMP))).getBigUint64(0, true)).toBe((2n << 48n) | 2n);
  });

  it('ends as its transfer ended, and then is not set', async () => {
    const { host, admin, statusOf, run } = bench();
    host.transferStatus = 0x013;
    expect(await statusOf(set(TIMESTAMP, 0))).toBe(0x013);
    expect(await statusOf(get(TIMESTAMP))).toBe(0x013);
    expect(admin.features.timestamp.fromHost).toBe(false);
    expect(await run(get(TIMESTAMP, { select: CAPABILITIES }))).toEqual({
      status: 0,
      dword0: 0b100,
    });
  });
});

describe('Namespace Write Protection', () => {
  it('protects once the data is on the disk, and can be taken back', async () => {
    const { namespaces, storages, run, statusOf } = bench();
    expect(await statusOf(set(0x84, 1, { nsid: 1 }))).toBe(0);
    expect(namespaces.map(({ writeProtected }) => writeProtected)).toEqual([true, false, false]);
    expect(storages[1].steps.map(({ kind }) => kind)).toEqual(['flush']);
    expect(storages[2].steps).toEqual([]);
    expect((await run(get(0x84, { nsid: 1 }))).dword0).toBe(1);
    expect(await statusOf(set(0x84, 0, { nsid: 1 }))).toBe(0);
    expect(namespaces[0].readOnly).toBe(false);
  });

  it('refuses the states that NWPC does not offer', async () => {
    const { statusOf, namespaces } = bench();
    for (const state of [2, 3, 4, 5, 6, 7]) {
      expect(await statusOf(set(0x84, state, { nsid: 1 }))).toBe(0x002);
    }
    expect(namespaces[0].writeProtected).toBe(false);
  });

  it('cannot be taken from a namespace whose file is read-only', async () => {
    const { statusOf, run, namespaces } = bench();
    expect((await run(get(0x84, { nsid: 5 }))).dword0).toBe(1);
    expect((await run(get(0x84, { nsid: 5, select: DEFAULT }))).dword0).toBe(1);
    expect(await statusOf(set(0x84, 0, { nsid: 5 }))).toBe(0x10e);
    expect(await statusOf(set(0x84, 1, { nsid: 5 }))).toBe(0);
    namespaces[0].writeProtected = true;
    expect(await statusOf(set(0x84, 0, { nsid: BROADCAST }))).toBe(0x10e);
    expect(namespaces[0].writeProtected).toBe(true);
  });

  it('fails where the disk cannot be flushed', async () => {
    const { statusOf, storages } = bench();
    storages[1].failing = 'flush';
    expect(await statusOf(set(0x84, 1, { nsid: 1 }))).toBe(0x006);
  });
});
