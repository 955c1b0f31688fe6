import { closeSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { IORING_OP_FSYNC, IORING_OP_READ } from '../../../src/ffi/io-uring.ts';
import { close, eventfd, SystemError } from '../../../src/ffi/libc.ts';
import { addressOf, mapMemory } from '../../../src/storage/storage-buffers.ts';
import { SubmissionRing } from '../../../src/storage/submission-ring.ts';
import { scratch } from './disk.ts';

function ring(entries: number): SubmissionRing | undefined {
  const events = eventfd();
  onTestFinished(() => close(events));
  try {
    return new SubmissionRing(entries, events, 4);
  } catch (error) {
    if (error instanceof SystemError) return undefined;
    throw error;
  }
}

async function reaped(of: SubmissionRing, count: number): Promise<[number, number][]> {
  const ends: [number, number][] = [];
  for (let turn = 0; turn < 2000 && ends.length < count; turn++) {
    of.reap((userData, result) => ends.push([userData, result]));
    if (ends.length < count) await sleep(1);
  }
  return ends.sort(([a], [b]) => a - b);
}

test('entries keep their order and their data, round the ring many times', async (context) => {
  const tested = ring(8);
  if (tested === undefined) return context.skip('no io_uring here');
  using directory = scratch();
  const path = join(directory.path, 'bytes');
  writeFileSync(
    path,
    Uint8Array.from({ length: 4096 }, (_, index) => index >> 4),
  );
  const fd = openSync(path, 'r');
  const memory = mapMemory(4096);
  const address = addressOf(memory) as number;
  for (let round = 0; round < 50; round++) {
    const count = 1 + (round % 8);
    memory.fill(0xff);
    for (let each = 0; each < count; each++) {
      const entry = { offset: each * 16, address: address + each * 16, length: 16, flags: 0 };
      tested.put(IORING_OP_READ, 0, fd, entry, round * 8 + each);
    }
    expect(tested.unsubmitted).toBe(count);
    expect(tested.enter()).toBe(0);
    expect(tested.unsubmitted).toBe(0);
    const expected = Array.from({ length: count }, (_, each) => [round * 8 + each, 16]);
    expect(await reaped(tested, count)).toEqual(expected);
    for (let each = 0; each < 8; each++) {
      expect(memory[each * 16 + 15]).toBe(each < count ? each : 0xff);
    }
  }
  tested.close();
  tested.reap(() => expect.fail('expected nothing of a ring that is closed'));
  closeSync(fd);
});

test('what is taken back is never done', async (context) => {
  const tested = ring(8);
  if (tested === undefined) return context.skip('no io_uring here');
  using directory = scratch();
  const path = join(directory.path, 'bytes');
  writeFileSync(path, 'bytes');
  const fd = openSync(path, 'r+');
  const entry = { offset: 0, address: 0, length: 0, flags: 0 };
  for (const userData of [1, 2, 3]) tested.put(IORING_OP_FSYNC, 0, fd, entry, userData);
  expect(tested.takeBack()).toBe(3);
  expect(tested.takeBack()).toBe(2);
  tested.put(IORING_OP_FSYNC, 0, fd, entry, 4);
  expect(tested.unsubmitted).toBe(2);
  expect(tested.enter()).toBe(0);
  expect(await reaped(tested, 2)).toEqual([
    [1, 0],
    [4, 0],
  ]);
  expect(await reaped(tested, 0)).toEqual([]);
  tested.close();
  closeSync(fd);
});

test('an entry that is refused does not keep back those behind it', async (context) => {
  const tested = ring(8);
  if (tested === undefined) return context.skip('no io_uring here');
  using directory = scratch();
  const path = join(directory.path, 'bytes');
  writeFileSync(path, 'bytes');
  const fd = openSync(path, 'r+');
  const entry = { offset: 0, address: 0, length: 0, flags: 0 };
  tested.put(IORING_OP_FSYNC, 0, fd, { ...entry, flags: 0xffff }, 1);
  tested.put(IORING_OP_FSYNC, 0, fd, entry, 2);
  expect(tested.enter()).toBe(0);
  const [EINVAL] = [22];
  expect(await reaped(tested, 2)).toEqual([
    [1, -EINVAL],
    [2, 0],
  ]);
  tested.close();
  closeSync(fd);
});
