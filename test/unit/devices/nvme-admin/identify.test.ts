import {
  closeSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { AdminCommands } from '../../../../src/devices/nvme/admin/admin-commands.ts';
import { Namespace } from '../../../../src/devices/nvme/namespace.ts';
import { bench, bytesOf, command, HostDouble, MIB, StorageDouble, text } from './admin-bench.ts';

const IDENTIFY = 0x06;
const BROADCAST = 0xffff_ffff;

const identify = (cns: number, nsid = 0, controller = 0) => ({
  opcode: IDENTIFY,
  nsid,
  dword10: cns | (controller << 16),
});

/** Bytes 0 to 4095 that are not 0, outside the ranges [offset, length] named. */
function strays(view: DataView, ranges: readonly (readonly [number, number])[]): number[] {
  expect(view.byteLength).toBe(4096);
  const left: number[] = [];
  for (let at = 0; at < view.byteLength; at++) {
    const named = ranges.some(([offset, length]) => at >= offset && at < offset + length);
    if (!named && view.getUint8(at) !== 0) left.push(at);
  }
  return left;
}

describe('Identify Controller (CNS 01h)', () => {
  it('has each field where Figure 247 of NVMe 1.4 has it, and nothing else', async () => {
    const { dataOf } = bench();
    const id = await dataOf(identify(0x01));
    const { version } = JSON.parse(
      readFileSync(new URL('../../../../package.json', import.meta.url), 'utf8'),
    );
    expect(id.byteLength).toBe(4096);
    expect(id.getUint16(0, true)).toBe(0x1b36);
    expect(id.getUint16(2, true)).toBe(0x1af4);
    expect(text(id, 4, 20)).toBe('SB0001              ');
    expect(text(id, 24, 40)).toBe('sealbus NVMe'.padEnd(40));
    expect(text(id, 64, 8)).toBe(version.padEnd(8));
    expect([...bytesOf(id, 73, 3)]).toEqual([0x00, 0x54, 0x52]);
    expect(2 ** id.getUint8(77) * 4096).toBe(512 * 1024);
    expect(id.getUint16(78, true)).toBe(1);
    expect(id.getUint32(80, true)).toBe(0x0001_0400);
    expect(id.getUint32(88, true)).toBe(30_000_000);
    expect(id.getUint32(92, true)).toBe(0x100);
    expect(id.getUint8(111)).toBe(1);
    expect(id.getUint16(256, true)).toBe(0x102);
    expect(id.getUint8(258)).toBe(3);
    expect(id.getUint8(259)).toBe(3);
    expect(id.getUint8(260)).toBe(0b0011);
    expect(id.getUint8(261)).toBe(0b0110);
    expect(id.getUint8(262)).toBe(63);
    expect(id.getUint8(263)).toBe(0);
    expect(id.getUint16(266, true)).toBe(343);
    expect(id.getUint16(268, true)).toBe(353);
    const capacity = 16384 * 512 + 64 * MIB + 4 * MIB;
    expect(id.getBigUint64(280, true)).toBe(BigInt(capacity));
    expect(id.getUint8(512)).toBe(0x66);
    expect(id.getUint8(513)).toBe(0x44);
    expect(id.getUint32(516, true)).toBe(5);
    expect(id.getUint16(520, true)).toBe(0b1101_1101);
    expect(id.getUint8(524)).toBe(0);
    expect(id.getUint8(525)).toBe(0b111);
    expect(id.getUint16(526, true)).toBe(0);
    expect(id.getUint16(528, true)).toBe(0);
    expect(id.getUint8(531)).toBe(1);
    // SGLs of any alignment, with bit buckets, and longer than the data.
    expect(id.getUint32(536, true)).toBe(0x0005_0001);
    expect(text(id, 768, 256)).toBe('nqn.2026-11.example:sealbus'.padEnd(256, '\0'));
    expect(
      strays(id, [
        [0, 4],
        [4, 68],
        [73, 3],
        [77, 3],
        [80, 4],
        [88, 8],
        [111, 1],
        [256, 7],
        [266, 4],
        [280, 16],
        [512, 2],
        [516, 6],
        [525, 1],
        [531, 1],
        [536, 4],
        [768, 256],
      ]),
    ).toEqual([]);
  });

  it('offers Doorbell Buffer Config only where the controller has it', async () => {
    const { dataOf } = bench({ shadowDoorbells: false });
    expect((await dataOf(identify(0x01))).getUint16(256, true)).toBe(0x002);
  });

  it('says whose PCI function it is', () => {
    const host = new HostDouble([]);
    const admin = new AdminCommands(host, { vendor: 0x1234, subsystemVendor: 0x5678 });
    expect(admin.execute(command(identify(0x01)))).toEqual({ status: 0 });
    const id = new DataView(host.sent[0]!.buffer);
    expect([id.getUint16(0, true), id.getUint16(2, true)]).toEqual([0x1234, 0x5678]);
    expect(id.getUint32(516, true)).toBe(0);
  });

  it('cuts texts that are too long, and leaves out what is not printable ASCII', async () => {
    const { dataOf } = bench({ serialNumber: `é${'x'.repeat(30)}` });
    expect(text(await dataOf(identify(0x01)), 4, 21)).toBe(`?${'x'.repeat(19)}s`);
  });

  it.each([0, 1, 4096, 12288, 1.5])(
    'takes no transfer limit of %d, which MDTS cannot name',
    (bytes) => {
      const host = Object.assign(new HostDouble([]), { transferBytesMax: bytes });
      expect(() => new AdminCommands(host)).toThrow(RangeError);
    },
  );
});

describe('Identify Namespace (CNS 00h and 11h)', () => {
  it.each([0x00, 0x11])('has each field where Figure 245 has it (CNS %i)', async (cns) => {
    const { dataOf } = bench();
    const id = await dataOf(identify(cns, 1));
    expect(id.byteLength).toBe(4096);
    const blocks = 16384n;
    expect(id.getBigUint64(0, true)).toBe(blocks);
    expect(id.getBigUint64(8, true)).toBe(blocks);
    expect(id.getBigUint64(16, true)).toBe(blocks);
    expect(id.getUint8(24)).toBe(0b1_0001);
    expect(id.getUint8(25)).toBe(1);
    expect(id.getUint8(26)).toBe(0);
    expect(id.getUint8(32)).toBe(0x80);
    expect(id.getUint8(33)).toBe(0b0001);
    expect(id.getBigUint64(48, true)).toBe(blocks * 512n);
    expect([64, 66, 68, 70].map((at) => id.getUint16(at, true))).toEqual([7, 7, 7, 7]);
    expect(id.getUint8(99)).toBe(0);
    // LBA formats: metadata bytes 15:0, log2 of data bytes 23:16, relative performance 25:24.
    expect(id.getUint32(128, true)).toBe((1 << 24) | (9 << 16));
    expect(id.getUint32(132, true)).toBe((0 << 24) | (12 << 16));
    expect(
      strays(id, [
        [0, 27],
        [32, 2],
        [48, 24],
        [104, 24],
        [128, 8],
      ]),
    ).toEqual([]);
  });

  it('tells of 4 KiB blocks, and of a storage that does not discard', async () => {
    const { dataOf } = bench();
    const id = await dataOf(identify(0x00, 2));
    expect(id.getBigUint64(0, true)).toBe(16384n);
    expect(id.getUint8(24)).toBe(0b1_0000);
    expect(id.getUint8(26)).toBe(1);
    expect(id.getUint8(33)).toBe(0);
    expect(id.getUint16(64, true)).toBe(0);
  });

  it('has the write-protected attribute for a read-only file and for Write Protection', async () => {
    const { dataOf, namespaces } = bench();
    expect((await dataOf(identify(0x00, 5))).getUint8(99)).toBe(1);
    namespaces[0].writeProtected = true;
    expect((await dataOf(identify(0x00, 1))).getUint8(99)).toBe(1);
  });

  it('reads zeros for an NSID that is valid and inactive', async () => {
    const { dataOf } = bench();
    expect(strays(await dataOf(identify(0x00, 3)), [])).toEqual([]);
  });

  it.each([0, 6, 0xffff_fffe, BROADCAST])('refuses NSID %i', async (nsid) => {
    const { statusOf, host } = bench();
    expect(await statusOf(identify(0x00, nsid))).toBe(0x00b);
    expect(await statusOf(identify(0x11, nsid))).toBe(0x00b);
    expect(host.sent).toEqual([]);
  });

  it('counts as used what the file system has allocated to a file with holes', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'sealbus-nuse-'));
    try {
      const path = join(directory, 'disk.img');
      const fd = openSync(path, 'w');
      writeSync(fd, new Uint8Array(64 * 1024).fill(1), 0, 64 * 1024, 4 * MIB);
      closeSync(fd);
      truncateSync(path, 16 * MIB);
      const storage = new StorageDouble(16 * MIB, { path });
      const { dataOf } = bench({ namespaces: [new Namespace(1, storage)] });
      const used = Number((await dataOf(identify(0x00, 1))).getBigUint64(16, true)) * 512;
      // The file system may round up, but not to the whole file.
      expect(used).toBeGreaterThanOrEqual(64 * 1024);
      expect(used).toBeLessThan(2 * MIB);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  it('sends nothing once a reset has come between', async () => {
    const { admin, host } = bench();
    const answer = admin.execute(command(identify(0x00, 1)));
    admin.reset();
    await answer;
    expect(host.sent).toEqual([]);
  });
});

describe('Namespace identifiers', () => {
  const descriptors = (view: DataView) => {
    const found = new Map<number, string>();
    let at = 0;
    while (view.getUint8(at + 1) !== 0) {
      const length = view.getUint8(at + 1);
      expect(view.getUint16(at + 2, true)).toBe(0);
      found.set(view.getUint8(at), Buffer.from(bytesOf(view, at + 4, length)).toString('hex'));
      at += 4 + length;
    }
    expect(strays(view, [[0, at]])).toEqual([]);
    return found;
  };

  it('are in the descriptor list (CNS 03h) and in Identify Namespace the same', async () => {
    const { dataOf } = bench();
    const found = descriptors(await dataOf(identify(0x03, 2)));
    const id = await dataOf(identify(0x00, 2));
    expect([...found.keys()].sort()).toEqual([1, 2, 3]);
    expect(found.get(1)).toBe(Buffer.from(bytesOf(id, 120, 8)).toString('hex'));
    expect(found.get(2)).toBe(Buffer.from(bytesOf(id, 104, 16)).toString('hex'));
    // Locally administered, not a group; RFC 9562 version 8, variant 10b.
    expect(Number.parseInt(found.get(1)!.slice(0, 2), 16) & 3).toBe(2);
    expect(found.get(2)!.slice(16)).toBe(found.get(1));
    expect(found.get(3)).toMatch(/^.{12}8.{3}[89ab].{15}$/);
  });

  it('stay with serial number and NSID, and are of no other pair', async () => {
    const all = new Set<string>();
    for (const serialNumber of ['SB0001', 'SB0002', 'SB0001']) {
      const { dataOf } = bench({ serialNumber });
      for (const nsid of [1, 2]) {
        const found = descriptors(await dataOf(identify(0x03, nsid)));
        all.add([...found.values()].join());
      }
    }
    expect(all.size).toBe(4);
  });

  it.each([0, 3, 6, BROADCAST])('are refused for NSID %i, which is not active', async (nsid) => {
    expect(await bench().statusOf(identify(0x03, nsid))).toBe(0x00b);
  });
});

describe('Lists', () => {
  const nsids = (view: DataView) => {
    expect(view.byteLength).toBe(4096);
    return Array.from({ length: 1024 }, (_, i) => view.getUint32(4 * i, true));
  };

  it.each([0x02, 0x10])(
    'of namespaces hold the NSIDs above the one named (CNS %i)',
    async (cns) => {
      const { dataOf } = bench();
      const rest = (count: number) => new Array<number>(1024 - count).fill(0);
      const listed = async (above: number) => nsids(await dataOf(identify(cns, above)));
      expect(await listed(0)).toEqual([1, 2, 5, ...rest(3)]);
      expect(await listed(1)).toEqual([2, 5, ...rest(2)]);
      expect(await listed(3)).toEqual([5, ...rest(1)]);
      expect(await listed(5)).toEqual(rest(0));
      expect(await listed(0xffff_fffd)).toEqual(rest(0));
    },
  );

  it('of more than 1024 namespaces are read in parts', async () => {
    const storage = new StorageDouble(MIB);
    const namespaces = Array.from({ length: 1500 }, (_, i) => new Namespace(i + 1, storage));
    const { dataOf } = bench({ namespaces });
    const first = nsids(await dataOf(identify(0x02, 0)));
    expect([first[0], first.at(-1)]).toEqual([1, 1024]);
    const second = nsids(await dataOf(identify(0x02, 1024)));
    expect([second[0], second[475], second[476]]).toEqual([1025, 1500, 0]);
  });

  it.each([0xffff_fffe, BROADCAST])('of namespaces above NSID %i are refused', async (nsid) => {
    const { statusOf } = bench();
    expect(await statusOf(identify(0x02, nsid))).toBe(0x00b);
    expect(await statusOf(identify(0x10, nsid))).toBe(0x00b);
  });

  it('of controllers hold this one, from the identifier named', async () => {
    const { dataOf, statusOf } = bench();
    for (const entry of [identify(0x13), identify(0x13, 0, 1), identify(0x12, 2, 1)]) {
      const list = await dataOf(entry);
      expect([list.byteLength, list.getUint16(0, true), list.getUint16(2, true)]).toEqual([
        4096, 1, 1,
      ]);
    }
    for (const entry of [identify(0x13, 0, 2), identify(0x12, 1, 0xffff)]) {
      const list = await dataOf(entry);
      expect([list.getUint16(0, true), list.getUint16(2, true)]).toEqual([0, 0]);
    }
    expect(await statusOf(identify(0x12, BROADCAST))).toBe(0x002);
    expect(await statusOf(identify(0x12, 3))).toBe(0x002);
    expect(await statusOf(identify(0x12, 6))).toBe(0x00b);
    expect(await statusOf(identify(0x12, 0))).toBe(0x00b);
  });
});

describe('Identify', () => {
  it('refuses every CNS it does not have with Invalid Field', async () => {
    const { statusOf, host } = bench();
    const had = new Set([0x00, 0x01, 0x02, 0x03, 0x10, 0x11, 0x12, 0x13]);
    for (let cns = 0; cns < 256; cns++) {
      if (!had.has(cns)) expect(await statusOf(identify(cns, 1))).toBe(0x002);
    }
    expect(host.sent).toEqual([]);
  });

  it('ends as the transfer ended', async () => {
    const { statusOf } = bench({ transferStatus: 0x004 });
    for (const entry of [identify(0x00, 1), identify(0x01), identify(0x02), identify(0x03, 1)]) {
      expect(await statusOf(entry)).toBe(0x004);
    }
  });
});

describe('Commands that are not there', () => {
  it('end with Invalid Command Opcode', async () => {
    const { statusOf } = bench();
    const had = new Set([0x02, 0x06, 0x09, 0x0a, 0x0c, 0x80]);
    for (let opcode = 0; opcode < 256; opcode++) {
      if (!had.has(opcode)) expect(await statusOf({ opcode, nsid: 1 })).toBe(0x001);
    }
  });
});
