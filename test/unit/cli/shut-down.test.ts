import { expect, it } from 'vitest';
import { shutDown } from '../../../src/cli/guest-streams.ts';

/** A guest that shuts down when told to, or hangs until it is stopped; `powerOff` says what a real one does. */
function guest(shutsDown: boolean | 'hangs') {
  const asked: string[] = [];
  const stopped = Promise.withResolvers<void>();
  return {
    asked,
    powerOff: async () => {
      asked.push('powerOff');
      if (shutsDown !== 'hangs') return shutsDown;
      await stopped.promise;
      return false;
    },
    stop: async () => {
      asked.push('stop');
      stopped.resolve();
    },
  };
}

it('says nothing of a guest that shuts down', async () => {
  const vm = guest(true);
  const said: string[] = [];
  const abort = new AbortController();
  await shutDown(vm, { log: (words) => said.push(words), signal: abort.signal });
  abort.abort();
  expect([vm.asked, said]).toEqual([['powerOff'], []]);
});

it('says that a guest which did not was turned off, and what that may mean', async () => {
  const said: string[] = [];
  const { signal } = new AbortController();
  await shutDown(guest(false), { log: (words) => said.push(words), signal });
  expect(said).toEqual([expect.stringMatching(/did not shut down within 120 s.*journal/)]);
});

it('a Ctrl-C does not wait for a guest that hangs', async () => {
  const vm = guest('hangs');
  const said: string[] = [];
  const abort = new AbortController();
  const down = shutDown(vm, { log: (words) => said.push(words), signal: abort.signal });
  abort.abort();
  await down;
  expect([vm.asked, said]).toEqual([['powerOff', 'stop'], []]);
});
