import { fstatSync, openSync, statSync } from 'node:fs';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { close } from '../../../src/ffi/libc.ts';
import { socketPair } from '../../../src/ffi/socket-pair.ts';
import { DescriptorReceiver, DescriptorSender } from '../../../src/memory/descriptor-channel.ts';

let sender: DescriptorSender;
let receiver: DescriptorReceiver;
let theirs: number;

beforeEach(() => {
  const [ours, other] = socketPair();
  theirs = other;
  sender = new DescriptorSender(ours);
  receiver = new DescriptorReceiver(theirs);
});
afterEach(() => {
  sender.close();
  close(theirs);
});

/** Which descriptors it sent: a file each. */
function sent(...paths: string[]): number[] {
  return paths.map((path) => {
    const fd = openSync(path, 'r');
    const number = sender.send(fd);
    close(fd);
    return number;
  });
}

test('a descriptor comes under its number, and is closed after its use', () => {
  const [zero] = sent('/dev/zero');
  let seen = -1;
  const device = receiver.with(zero ?? 0, (fd) => {
    seen = fd;
    return fstatSync(fd).rdev;
  });
  expect(device).toBe(statSync('/dev/zero').rdev);
  expect(() => fstatSync(seen)).toThrow(/EBADF/);
});

test('those that nobody asked for are passed over, and what throws leaves none open', () => {
  const [, , third] = sent('/dev/null', '/dev/null', '/dev/zero');
  let seen = -1;
  const use = () =>
    receiver.with(third ?? 0, (fd) => {
      seen = fd;
      throw new Error('no key');
    });
  expect(use).toThrow('no key');
  expect(() => fstatSync(seen)).toThrow(/EBADF/);
});

test('one that did not come is missing, in words; so it is with bytes that bring none', () => {
  expect(() => receiver.with(1, () => {})).toThrow(/expected a descriptor with number 1.*got none/);
  sender.close();
  expect(() => receiver.with(1, () => {})).toThrow(/got none/);
  expect(() => sender.send(0)).toThrow(/open descriptor channel/);
});
