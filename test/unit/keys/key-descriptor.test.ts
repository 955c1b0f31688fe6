import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';
import { socketPair } from '../../../src/ffi/socket-pair.ts';
import { bytesWaiting } from '../../../src/ffi/unix-socket.ts';
import { keyIsWaiting } from '../../../src/keys/key-descriptor.ts';

const ends: (() => void)[] = [];
afterEach(() => {
  for (const end of ends.splice(0)) end();
});

function pair(): [number, number] {
  const [mine, theirs] = socketPair();
  ends.push(() => closeSync(mine));
  return [mine, theirs];
}

test('it waits until all of a key is there, and leaves it there', async () => {
  const [mine, theirs] = pair();
  ends.push(() => closeSync(theirs));
  writeSync(theirs, new Uint8Array(40));
  const all = keyIsWaiting(mine, 64);
  setTimeout(() => writeSync(theirs, new Uint8Array(24)), 30);
  await all;
  expect(bytesWaiting(mine)).toBe(64);
});

test('an end that is closed is not waited for', async () => {
  const [mine, theirs] = pair();
  writeSync(theirs, new Uint8Array(40));
  closeSync(theirs);
  await keyIsWaiting(mine, 64);
  expect(bytesWaiting(mine)).toBe(40);
});

test('a key that does not come is given up, in words', async () => {
  const [mine, theirs] = pair();
  ends.push(() => closeSync(theirs));
  writeSync(theirs, new Uint8Array(40));
  await expect(keyIsWaiting(mine, 64, 30)).rejects.toThrow(/64 bytes within 30 ms, got 40/);
});

test('a file is there; what is neither file, pipe nor socket is refused', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-unit-'));
  ends.push(() => rmSync(directory, { recursive: true }));
  writeFileSync(join(directory, 'key'), new Uint8Array(64));
  const file = openSync(join(directory, 'key'), 'r');
  const device = openSync('/dev/zero', 'r');
  ends.push(() => closeSync(file));
  ends.push(() => closeSync(device));
  await keyIsWaiting(file, 64);
  await expect(keyIsWaiting(device, 64)).rejects.toThrow(/a file, a pipe or a socket, got neither/);
  await expect(keyIsWaiting(1_000_000, 64)).rejects.toThrow(/EBADF/);
});
