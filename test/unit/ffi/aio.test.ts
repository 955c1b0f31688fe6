import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { AioQueue } from '../../../src/ffi/aio.ts';
import {
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  mmap,
  munmap,
  PROT_READ,
  PROT_WRITE,
  viewOfAddress,
} from '../../../src/ffi/libc.ts';

const ENTRIES = 8;
const PAGE = 4096;
/** Above 4 GiB, where an offset has a high word; the file is sparse. */
const FAR = 5 * 2 ** 30;
const EBADF = 9;

let directory: string;
let fd: number;
let queue: AioQueue;
let at: number;
let bytes: Uint8Array;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'sealbus-aio-'));
  fd = openSync(join(directory, 'file'), 'w+');
  queue = new AioQueue(ENTRIES);
  at = mmap(0, ENTRIES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  bytes = viewOfAddress(at, ENTRIES * PAGE);
});

afterEach(() => {
  queue.close();
  closeSync(fd);
  munmap(at, ENTRIES * PAGE);
  rmSync(directory, { recursive: true });
});

test('writes and reads that are sent together each end with their own result', () => {
  for (let i = 0; i < ENTRIES; i++) {
    bytes.fill(i + 1, i * PAGE, i * PAGE + 100 + i);
    queue.prepare(i, 'write', fd, FAR + i * 1000, at + i * PAGE, 100 + i);
  }
  expect(queue.submit(0, ENTRIES)).toBe(ENTRIES);
  expect(queue.wait(ENTRIES, 5000)).toBe(ENTRIES);
  for (let i = 0; i < ENTRIES; i++) expect(queue.result(i)).toBe(100 + i);
  bytes.fill(0);
  for (let i = 0; i < ENTRIES; i++) {
    queue.prepare(i, 'read', fd, FAR + (ENTRIES - 1 - i) * 1000, at + i * PAGE, 50);
  }
  // In two parts: the second does not send the first again.
  expect(queue.submit(0, 3)).toBe(3);
  expect(queue.submit(3, ENTRIES)).toBe(ENTRIES - 3);
  expect(queue.wait(ENTRIES, 5000)).toBe(ENTRIES);
  for (let i = 0; i < ENTRIES; i++) {
    expect(queue.result(i)).toBe(50);
    expect(bytes[i * PAGE]).toBe(ENTRIES - i);
    expect(bytes[i * PAGE + 49]).toBe(ENTRIES - i);
    expect(bytes[i * PAGE + 50]).toBe(0);
  }
});

test('a request that fails is a result; one that cannot be sent stops those behind it', () => {
  queue.prepare(0, 'write', fd, 0, at, 10);
  queue.prepare(1, 'write', fd, 10, 8, 10); // an address that is nobody's
  queue.prepare(2, 'write', 1_000_000, 0, at, 10);
  expect(queue.submit(0, 2)).toBe(2);
  expect(queue.wait(2, 5000)).toBe(2);
  expect(queue.result(0)).toBe(10);
  expect(queue.result(1)).toBeLessThan(0);
  expect(queue.submit(0, 3)).toBe(2);
  expect(queue.wait(2, 5000)).toBe(2);
  expect(() => queue.submit(2, 3)).toThrow(expect.objectContaining({ errno: EBADF }));
  expect(readFileSync(join(directory, 'file')).length).toBeGreaterThanOrEqual(10);
});

test('what does not come is not waited for longer than was said', () => {
  expect(queue.wait(1, 20)).toBe(0);
});

test('more than there are control blocks for is refused', () => {
  expect(() => new AioQueue(0)).toThrow(RangeError);
  expect(() => new AioQueue(100_000)).toThrow(RangeError);
  expect(() => queue.submit(0, ENTRIES + 1)).toThrow(RangeError);
  expect(() => queue.wait(ENTRIES + 1, 10)).toThrow(RangeError);
});
