/**
 * Plays a vCPU: maps the RAM file and hammers the words that are its own, in the second half of each
 * page, checking each before it stores again. Started as a worker thread by the torture test.
 */
import { closeSync, openSync } from 'node:fs';
import { parentPort, workerData } from 'node:worker_threads';
import { MAP_SHARED, mmap, PROT_READ, PROT_WRITE, viewOfAddress } from '../../../src/ffi/libc.ts';

const { path, offset, pages, id, pauseEvery, stop } = workerData as {
  path: string;
  offset: number;
  pages: number;
  id: number;
  /** Stores between two short rests; 0 never rests. */
  pauseEvery: number;
  stop: SharedArrayBuffer;
};

const WORDS_A_PAGE = 1024;
const fd = openSync(path, 'r+');
const at = mmap(0, pages * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
closeSync(fd);
const bytes = viewOfAddress(at, pages * 4096);
const words = new Uint32Array(bytes.buffer, bytes.byteOffset, pages * WORDS_A_PAGE);
const stopped = new Int32Array(stop);
const expected = new Uint32Array(pages * WORDS_A_PAGE);

let state = id * 7919 + 1;
let stores = 0;
let lost = 0;
parentPort?.postMessage('running');
while (Atomics.load(stopped, 0) === 0) {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  const page = (state >>> 9) % pages;
  // Two vCPUs share cache lines in the upper half: every other word is each one's own.
  const word = page * WORDS_A_PAGE + 512 + (((state >>> 17) % 256) * 2 + id);
  if (Atomics.load(words, word) !== expected[word]) {
    lost++;
    expected[word] = words[word] ?? 0;
  }
  stores++;
  Atomics.store(words, word, stores);
  expected[word] = stores;
  if (pauseEvery > 0 && stores % pauseEvery === 0) Atomics.wait(stopped, 0, 0, 1);
}
parentPort?.postMessage({ stores, lost });
