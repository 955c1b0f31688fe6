import { randomBytes } from 'node:crypto';
import * as fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { Status } from '../../../../src/devices/nvme/status.ts';
import { HostDriver, PAGE } from './host-driver.ts';
import { MemoryStorage } from './memory-storage.ts';

const BYTES = 2 ** 20;
const DATA_PAGES = 257;

let storage: MemoryStorage;
let driver: HostDriver;
let data: number;
let lists: number;

beforeAll(async () => {
  storage = new MemoryStorage(BYTES + 4096);
  driver = new HostDriver({ namespaces: [{ storage }] }, 16 * 2 ** 20);
  driver.enable();
  await driver.createQueues(1);
  data = driver.pages(2 * DATA_PAGES);
  lists = driver.pages(8);
});

const nlb = (bytes: number) => bytes / 512 - 1;
const read = (prp1: number | bigint, prp2: number | bigint, bytes: number, flags = 0) =>
  driver.run(1, { opcode: 2, flags, nsid: 1, prp1, prp2, dwords: [0, 0, nlb(bytes)] });
const qword = (at: number, value: number | bigint) =>
  driver.view.setBigUint64(at, BigInt(value), true);

/** Lays `pages` out as PRP1, PRP2 and lists; the first list begins `skip` entries into its page. */
function prps(pages: readonly number[], skip: number): { prp1: number; prp2: number } {
  const [prp1 = 0, ...rest] = pages;
  if (rest.length <= 1) return { prp1, prp2: rest[0] ?? 0 };
  let list = lists;
  let at = list + 8 * skip;
  const prp2 = at;
  for (const [n, page] of rest.entries()) {
    if (at === list + PAGE - 8 && n < rest.length - 1) {
      list += PAGE;
      qword(at, list);
      at = list;
    }
    qword(at, page);
    at += 8;
  }
  return { prp1, prp2 };
}

describe('physical region pages', () => {
  it('carry any length from any offset over any pages, both ways, and touch nothing else', async () => {
    const layout = fc.record({
      blocks: fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constantFrom(2047, 2048)),
      offset: fc.integer({ min: 0, max: 1023 }).map((dword) => dword * 4),
      skip: fc.integer({ min: 0, max: 511 }),
      order: fc.shuffledSubarray(
        Array.from({ length: DATA_PAGES }, (_, n) => n),
        { minLength: DATA_PAGES, maxLength: DATA_PAGES },
      ),
      write: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(layout, async ({ blocks, offset, skip, order, write }) => {
        const length = blocks * 512;
        const count = Math.ceil((offset + length) / PAGE);
        const pages = order.slice(0, count).map((n) => data + n * PAGE);
        pages[0]! += offset;
        const { prp1, prp2 } = prps(pages, skip);
        storage.content.set(randomBytes(length));
        driver.memory.set(randomBytes(DATA_PAGES * PAGE), data);
        const expected = driver.memory.slice(data, data + DATA_PAGES * PAGE);
        const disk = storage.content.slice();
        let done = 0;
        for (const page of pages) {
          const part = Math.min(length - done, PAGE - (page % PAGE));
          const there = page - data;
          if (write) disk.set(expected.subarray(there, there + part), done);
          else expected.set(storage.content.subarray(done, done + part), there);
          done += part;
        }
        const entry = { opcode: write ? 1 : 2, nsid: 1, prp1, prp2, dwords: [0, 0, blocks - 1] };
        expect((await driver.run(1, entry)).status).toBe(0);
        const memory = driver.memory.subarray(data, data + DATA_PAGES * PAGE);
        expect(Buffer.compare(memory, expected)).toBe(0);
        expect(Buffer.compare(storage.content, disk)).toBe(0);
      }),
      { numRuns: 60 },
    );
  });

  it('are refused where an offset is not as the specification has it', async () => {
    const invalid = Status.prpOffsetInvalid;
    expect((await read(data + 2, 0, 512)).status).toBe(invalid);
    expect((await read(data, data + PAGE + 4, 8192)).status).toBe(invalid);
    expect((await read(data, lists + 4, 16384)).status).toBe(invalid);
    qword(lists, data + 8);
    expect((await read(data, lists, 16384)).status).toBe(invalid);
    // A chain goes on at the beginning of a page.
    qword(lists + PAGE - 8, lists + PAGE + 8);
    expect((await read(data, lists + PAGE - 8, 16384)).status).toBe(invalid);
  });

  it('outside RAM end in a data transfer error, and hurt nothing beside', async () => {
    const outside = 0x7f_ffff_f000;
    for (const high of [outside, 2n ** 52n, 2n ** 64n - 4096n]) {
      expect((await read(high, 0, 512)).status).toBe(Status.dataTransferError);
      expect((await read(data, high, 8192)).status).toBe(Status.dataTransferError);
      expect((await read(data, high, 16384)).status).toBe(Status.dataTransferError);
      qword(lists, high);
      qword(lists + 8, data);
      qword(lists + 16, data);
      expect((await read(data, lists, 16384)).status).toBe(Status.dataTransferError);
    }
    const before = storage.content.slice();
    const write = { opcode: 1, nsid: 1, prp1: outside, dwords: [0, 0, 0] };
    expect((await driver.run(1, write)).status).toBe(Status.dataTransferError);
    expect(Buffer.compare(storage.content, before)).toBe(0);
    expect((await read(data, 0, 512)).status).toBe(0);
  });

  it('that point at their own list, or at the queue, only move the bytes that are there', async () => {
    for (let n = 0; n < 512; n++) qword(lists + 8 * n, lists);
    expect((await read(data, lists + PAGE - 8, BYTES)).status).toBeLessThan(0x300);
    const { base } = driver.submission[1]!;
    qword(lists, base);
    qword(lists + 8, base);
    expect((await read(data, lists, 3 * PAGE)).status).toBe(0);
    driver.memory.fill(0, base, base + PAGE);
    expect((await read(data, 0, 512)).status).toBe(0);
  });
});

describe('scatter gather lists', () => {
  const SGL = 0x40;
  /** Type and sub-type in the upper byte of the length's qword. */
  const descriptor = (at: number, address: number | bigint, length: number, type: number) => {
    qword(at, address);
    driver.view.setUint32(at + 8, length, true);
    driver.view.setUint32(at + 12, type << 24, true);
  };
  const sgl1 = (length: number, type: number) => BigInt(length) | (BigInt(type) << 56n);
  const BLOCK = 0x00;
  const BUCKET = 0x10;
  const SEGMENT = 0x20;
  const LAST = 0x30;

  it('carry any bytes over any pieces, in segments, with bit buckets on reads', async () => {
    const piece = fc.record({
      length: fc.integer({ min: 0, max: 3000 }),
      gap: fc.integer({ min: 0, max: 50 }),
      bucket: fc.boolean(),
    });
    const layout = fc.record({
      pieces: fc.array(piece, { minLength: 1, maxLength: 200 }),
      perSegment: fc.integer({ min: 1, max: 190 }),
      blocks: fc.integer({ min: 1, max: 64 }),
      write: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(layout, async ({ pieces, perSegment, blocks, write }) => {
        const length = blocks * 512;
        const all = [...pieces, { length, gap: 0, bucket: false }];
        storage.content.set(randomBytes(length));
        driver.memory.set(randomBytes(DATA_PAGES * PAGE), data);
        const expected = driver.memory.slice(data, data + DATA_PAGES * PAGE);
        const disk = storage.content.slice();
        let done = 0;
        let place = 0;
        let at = lists;
        let end = lists;
        const segments: number[] = [];
        for (const [n, { length: bytes, gap, bucket }] of all.entries()) {
          if (n % perSegment === 0 && n > 0) {
            segments.push(n);
            at += 16;
          }
          place += gap;
          descriptor(at, data + place, bytes, bucket ? BUCKET : BLOCK);
          const part = bucket && write ? 0 : Math.min(bytes, length - done);
          if (!bucket && write) disk.set(expected.subarray(place, place + part), done);
          if (!bucket && !write) expected.set(storage.content.subarray(done, done + part), place);
          done += part;
          place += bytes;
          at += 16;
          end = at;
        }
        // Each segment but the last ends in a descriptor of the next.
        for (const [n] of segments.entries()) {
          const next = lists + (n + 1) * (perSegment + 1) * 16;
          const left = all.length - (n + 1) * perSegment;
          const last = n === segments.length - 1;
          const bytes = last ? end - next : (Math.min(left, perSegment) + 1) * 16;
          descriptor(next - 16, next, bytes, last ? LAST : SEGMENT);
        }
        const bytes = segments.length === 0 ? end - lists : (perSegment + 1) * 16;
        const type = segments.length === 0 ? LAST : SEGMENT;
        const entry = {
          opcode: write ? 1 : 2,
          flags: SGL,
          nsid: 1,
          prp1: lists,
          prp2: sgl1(bytes, type),
          dwords: [0, 0, blocks - 1],
        };
        const { status } = await driver.run(1, entry);
        if (segments.length >= 64) {
          expect([0, Status.invalidSglDescriptorCount]).toContain(status);
          return;
        }
        expect(status).toBe(0);
        const memory = driver.memory.subarray(data, data + DATA_PAGES * PAGE);
        expect(Buffer.compare(memory, expected)).toBe(0);
        expect(Buffer.compare(storage.content, disk)).toBe(0);
      }),
      { numRuns: 100 },
    );
  });

  it('carry one block without any list', async () => {
    expect((await read(data + 3, sgl1(1024, BLOCK), 1024, SGL)).status).toBe(0);
    const got = driver.memory.subarray(data + 3, data + 3 + 1024);
    expect(Buffer.compare(got, storage.content.subarray(0, 1024))).toBe(0);
  });

  it('are refused with the status that says why', async () => {
    const status = async (address: number, length: number, type: number) =>
      (await read(address, sgl1(length, type), 1024, SGL)).status;
    expect(await status(data, 512, BLOCK)).toBe(Status.sglDataLengthInvalid);
    expect(await status(data, 1024, 0x40)).toBe(Status.sglDescriptorTypeInvalid);
    expect(await status(data, 1024, 0x01)).toBe(Status.sglDescriptorTypeInvalid);
    expect(await status(lists, 0, LAST)).toBe(Status.invalidSglSegmentDescriptor);
    expect(await status(lists, 24, LAST)).toBe(Status.invalidSglSegmentDescriptor);
    expect(await status(0x7f_ffff_f000, 16, LAST)).toBe(Status.dataTransferError);
    descriptor(lists, data, 512, BLOCK);
    expect(await status(lists, 16, LAST)).toBe(Status.sglDataLengthInvalid);
    expect(await status(lists, 16, SEGMENT)).toBe(Status.invalidSglSegmentDescriptor);
    descriptor(lists, lists, 16, LAST);
    expect(await status(lists, 16, LAST)).toBe(Status.invalidSglSegmentDescriptor);
    expect(await status(lists, 32, SEGMENT)).toBe(Status.invalidSglSegmentDescriptor);
  });

  it('that bite their tail end, with a status', async () => {
    descriptor(lists, lists, 16, SEGMENT);
    const { status } = await read(lists, sgl1(16, SEGMENT), 1024, SGL);
    expect(status).toBe(Status.invalidSglDescriptorCount);
    for (let n = 0; n < 100; n++) descriptor(lists + 16 * n, data, 0, BLOCK);
    const huge = await read(lists, sgl1(0xffff_fff0, LAST), 1024, SGL);
    expect([Status.invalidSglDescriptorCount, Status.sglDescriptorTypeInvalid]).toContain(
      huge.status,
    );
  });
});
