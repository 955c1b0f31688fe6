import { readFileSync } from 'node:fs';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Namespace } from '../../../../src/devices/nvme/namespace.ts';
import { bench, bytesOf, type Entry, MIB, StorageDouble, text } from './admin-bench.ts';

const BROADCAST = 0xffff_ffff;
const RETAIN = 1 << 15;

interface Part {
  readonly bytes?: number;
  readonly offset?: number;
  readonly retain?: boolean;
  readonly nsid?: number;
}

/** Get Log Page of `bytes`, counted from 0 in dwords, split over dwords 10 and 11. */
function log(
  page: number,
  { bytes = 512, offset = 0, retain = false, nsid = BROADCAST }: Part = {},
): Entry {
  const dwords = bytes / 4 - 1;
  return {
    opcode: 0x02,
    nsid,
    dword10: (((dwords & 0xffff) << 16) | (retain ? RETAIN : 0) | page) >>> 0,
    dword11: dwords >>> 16,
    dword12: offset >>> 0,
    dword13: Math.floor(offset / 2 ** 32),
  };
}

/** Bytes of each log page. */
const PAGES = new Map([
  [0x01, 4096],
  [0x02, 512],
  [0x03, 512],
  [0x04, 4096],
  [0x05, 4096],
]);

const wide = (view: DataView, at: number) =>
  view.getBigUint64(at, true) | (view.getBigUint64(at + 8, true) << 64n);

describe('Get Log Page', () => {
  it('refuses every page it does not have with Invalid Log Page', async () => {
    const { statusOf, host } = bench();
    for (let page = 0; page < 256; page++) {
      if (!PAGES.has(page)) expect(await statusOf(log(page))).toBe(0x109);
    }
    expect(host.sent).toEqual([]);
  });

  it.each([...PAGES.keys()])('is of the controller: page %i has no namespace', async (page) => {
    const { statusOf } = bench();
    expect(await statusOf(log(page, { nsid: 0 }))).toBe(0);
    expect(await statusOf(log(page, { nsid: BROADCAST }))).toBe(0);
    for (const nsid of [1, 3, 6]) expect(await statusOf(log(page, { nsid }))).toBe(0x002);
  });

  it('sends any part of a page as it is, and zeros from its end on', async () => {
    const { admin, dataOf, statusOf, host } = bench();
    for (let i = 0; i < 70; i++) admin.errorLog.record({ sqid: i, cid: 7, status: 0x281 });
    admin.health.bytesRead = 123_456_789;
    const whole = new Map<number, Uint8Array>();
    for (const [page, bytes] of PAGES) {
      whole.set(page, bytesOf(await dataOf(log(page, { bytes })), 0, bytes).slice());
    }
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...PAGES.keys()),
        fc.integer({ min: 1, max: 2048 }).map((dwords) => dwords * 4),
        fc.oneof(
          fc.nat({ max: 5000 }),
          fc.nat({ max: 1250 }).map((dwords) => dwords * 4),
          fc.nat({ max: 2 ** 50 }),
        ),
        async (page, bytes, offset) => {
          const part = log(page, { bytes, offset, retain: true });
          const expected = whole.get(page)!;
          if (offset % 4 !== 0 || offset > expected.length) {
            const before = host.sent.length;
            expect(await statusOf(part)).toBe(0x002);
            expect(host.sent).toHaveLength(before);
            return;
          }
          const padded = new Uint8Array(offset + bytes + expected.length);
          padded.set(expected);
          const got = await dataOf(part);
          expect(bytesOf(got, 0, got.byteLength)).toEqual(padded.slice(offset, offset + bytes));
        },
      ),
    );
  });

  it('takes a length of more than 16 bits, up to the largest transfer', async () => {
    const { dataOf, statusOf, host } = bench();
    expect((await dataOf(log(0x02, { bytes: host.transferBytesMax }))).byteLength).toBe(512 * 1024);
    expect(await statusOf(log(0x02, { bytes: host.transferBytesMax + 4 }))).toBe(0x002);
    const all = { opcode: 0x02, dword10: 0xffff_0002, dword11: 0xffff };
    expect(await statusOf(all)).toBe(0x002);
  });

  it('ends as its transfer ended', async () => {
    const { statusOf } = bench({ transferStatus: 0x013 });
    for (const page of PAGES.keys()) expect(await statusOf(log(page))).toBe(0x013);
  });
});

describe('Error Information (01h)', () => {
  it('has entries of 64 bytes, the newest first, each field where §5.14.1.1 has it', async () => {
    const { admin, dataOf } = bench();
    admin.errorLog.record({ sqid: 0, cid: 0x1111, status: 0x002 });
    admin.errorLog.record({
      sqid: 3,
      cid: 0x2222,
      status: 0x281,
      parameterLocation: 0x0428,
      lba: 0x1234_5678_9abcn,
      nsid: 2,
    });
    const page = await dataOf(log(0x01, { bytes: 4096 }));
    const entry = (index: number) => {
      const at = 64 * index;
      return [
        page.getBigUint64(at, true),
        page.getUint16(at + 8, true),
        page.getUint16(at + 10, true),
        page.getUint16(at + 12, true),
        page.getUint16(at + 14, true),
        page.getBigUint64(at + 16, true),
        page.getUint32(at + 24, true),
      ];
    };
    expect(entry(0)).toEqual([2n, 3, 0x2222, 0x281 << 1, 0x0428, 0x1234_5678_9abcn, 2]);
    expect(entry(1)).toEqual([1n, 0, 0x1111, 0x002 << 1, 0xffff, 0n, 0]);
    expect(entry(2)).toEqual([0n, 0, 0, 0, 0, 0n, 0]);
  });

  it('keeps the last 64, and counts on', async () => {
    const { admin, dataOf } = bench();
    for (let i = 0; i < 100; i++) admin.errorLog.record({ sqid: 1, cid: i, status: 0x002 });
    const page = await dataOf(log(0x01, { bytes: 4096 }));
    const cids = Array.from({ length: 64 }, (_, i) => page.getUint16(64 * i + 10, true));
    expect(cids).toEqual(Array.from({ length: 64 }, (_, i) => 99 - i));
    expect(page.getBigUint64(0, true)).toBe(100n);
    admin.reset();
    expect(admin.errorLog.count).toBe(100n);
    expect(wide(await dataOf(log(0x02)), 176)).toBe(100n);
  });
});

describe('SMART / Health Information (02h)', () => {
  it('has counted one power cycle and nothing else at first', async () => {
    const page = await bench().dataOf(log(0x02));
    const at = [32, 48, 64, 80, 96, 112, 128, 144, 160, 176].map((offset) => wide(page, offset));
    expect(at).toEqual([0n, 0n, 0n, 0n, 0n, 1n, 0n, 0n, 0n, 0n]);
  });

  it('has each field where §5.14.1.2 has it', async () => {
    const { admin, host, dataOf } = bench();
    Object.assign(admin.health, {
      bytesRead: 512_000 * 3 + 1,
      bytesWritten: 512_000 * 5,
      readCommands: 11,
      writeCommands: 12,
      busyMs: 3 * 60_000 + 59_999,
      powerCycles: 4,
      unsafeShutdowns: 2,
      mediaErrors: 9,
    });
    host.uptimeMs = 7.9 * 3_600_000;
    const page = await dataOf(log(0x02));
    expect(page.byteLength).toBe(512);
    expect(page.getUint8(0)).toBe(0);
    expect(page.getUint16(1, true)).toBe(313);
    expect([page.getUint8(3), page.getUint8(4), page.getUint8(5)]).toEqual([100, 10, 0]);
    const at = [32, 48, 64, 80, 96, 112, 128, 144, 160, 176].map((offset) => wide(page, offset));
    expect(at).toEqual([4n, 5n, 11n, 12n, 3n, 4n, 7n, 2n, 9n, 0n]);
    expect(bytesOf(page, 192, 320).every((byte) => byte === 0)).toBe(true);
  });

  it('counts data units in thousands of 512 bytes, rounded up', async () => {
    const { admin, dataOf } = bench();
    const units = async (bytes: number) => {
      admin.health.bytesWritten = bytes;
      return wide(await dataOf(log(0x02)), 48);
    };
    expect(await units(0)).toBe(0n);
    expect(await units(1)).toBe(1n);
    expect(await units(512_000)).toBe(1n);
    expect(await units(512_001)).toBe(2n);
  });

  it('warns of a temperature at or over, at or under, its threshold', async () => {
    const { dataOf, statusOf } = bench();
    const warning = async () => (await dataOf(log(0x02))).getUint8(0);
    const threshold = (kelvin: number, under = 0) =>
      statusOf({ opcode: 0x09, dword10: 0x04, dword11: (under << 20) | kelvin });
    await threshold(314);
    expect(await warning()).toBe(0);
    await threshold(313);
    expect(await warning()).toBe(0b10);
    await threshold(343);
    expect(await warning()).toBe(0);
    await threshold(313, 1);
    expect(await warning()).toBe(0b10);
    await threshold(312, 1);
    expect(await warning()).toBe(0);
  });
});

describe('Firmware Slot Information (03h)', () => {
  it('has the package’s version in slot 1, which is active', async () => {
    const { dataOf } = bench();
    const page = await dataOf(log(0x03));
    const { version } = JSON.parse(
      readFileSync(new URL('../../../../package.json', import.meta.url), 'utf8'),
    );
    expect(page.getUint8(0)).toBe(0x01);
    expect(text(page, 8, 8)).toBe(version.padEnd(8));
    expect(bytesOf(page, 16, 496).every((byte) => byte === 0)).toBe(true);
  });
});

describe('Changed Namespace List (04h)', () => {
  const listed = (page: DataView) => {
    const nsids = Array.from({ length: 1024 }, (_, i) => page.getUint32(4 * i, true));
    return nsids.slice(0, nsids.indexOf(0));
  };
  const whole = { bytes: 4096 };

  it('has each namespace once, by rising NSID, until it is read', async () => {
    const { admin, dataOf } = bench();
    for (const nsid of [5, 1, 5]) admin.namespaceChanged(nsid);
    expect(listed(await dataOf(log(0x04, { ...whole, retain: true })))).toEqual([1, 5]);
    expect(listed(await dataOf(log(0x04, whole)))).toEqual([1, 5]);
    expect(listed(await dataOf(log(0x04, whole)))).toEqual([]);
  });

  it('stays where its transfer failed', async () => {
    const { admin, host, dataOf, statusOf } = bench();
    admin.namespaceChanged(2);
    host.transferStatus = 0x004;
    expect(await statusOf(log(0x04, whole))).toBe(0x004);
    host.transferStatus = 0;
    expect(listed(await dataOf(log(0x04, whole)))).toEqual([2]);
  });

  it('is FFFFFFFFh alone where more than 1024 have changed', async () => {
    const storage = new StorageDouble(MIB);
    const namespaces = Array.from({ length: 1025 }, (_, i) => new Namespace(i + 1, storage));
    const { admin, dataOf } = bench({ namespaces });
    for (let nsid = 1; nsid <= 1024; nsid++) admin.namespaceChanged(nsid);
    const full = await dataOf(log(0x04, { ...whole, retain: true }));
    expect([full.getUint32(0, true), full.getUint32(4092, true)]).toEqual([1, 1024]);
    admin.namespaceChanged(1025);
    expect(listed(await dataOf(log(0x04, whole)))).toEqual([0xffff_ffff]);
    expect(listed(await dataOf(log(0x04, whole)))).toEqual([]);
  });

  it('has a namespace whose write protection changed, once it did', async () => {
    const { dataOf, statusOf } = bench();
    const protect = (state: number) =>
      statusOf({ opcode: 0x09, nsid: 2, dword10: 0x84, dword11: state });
    await protect(0);
    expect(listed(await dataOf(log(0x04, whole)))).toEqual([]);
    await protect(1);
    expect(listed(await dataOf(log(0x04, whole)))).toEqual([2]);
  });
});

describe('Commands Supported and Effects (05h)', () => {
  const effects = async (shadowDoorbells: boolean) => {
    const page = await bench({ shadowDoorbells }).dataOf(log(0x05, { bytes: 4096 }));
    const table = (start: number) =>
      Object.fromEntries(
        Array.from({ length: 256 }, (_, opcode) => opcode)
          .map((opcode) => [opcode, page.getUint32(start + 4 * opcode, true)] as const)
          .filter(([, effect]) => effect !== 0),
      );
    return { admin: table(0), io: table(1024), rest: bytesOf(page, 2048, 2048) };
  };

  it('has each command’s support and what it changes', async () => {
    const { admin, io, rest } = await effects(true);
    const supported = 1;
    expect(admin).toEqual({
      0: supported,
      1: supported,
      2: supported,
      4: supported,
      5: supported,
      6: supported,
      8: supported,
      9: 0b101,
      10: supported,
      12: supported,
      124: supported,
      128: 0x1_0007,
    });
    expect(io).toEqual({
      0: supported,
      1: 0b11,
      2: supported,
      5: supported,
      8: 0b11,
      9: 0b11,
      12: supported,
    });
    expect(rest.every((byte) => byte === 0)).toBe(true);
  });

  it('has Doorbell Buffer Config only where the controller has it', async () => {
    expect((await effects(false)).admin[0x7c]).toBeUndefined();
  });
});
