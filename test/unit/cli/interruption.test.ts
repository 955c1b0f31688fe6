import { expect, test, vi } from 'vitest';
import { Interrupted } from '../../../src/cli/exit-code.ts';
import { interruptible } from '../../../src/cli/interruption.ts';

/** Calls the handler that was added last, as a signal would; the test runner has its own. */
function interrupt(): void {
  (process.listeners('SIGINT').at(-1) as NodeJS.SignalsListener)('SIGINT');
}

test('a signal aborts the work and is the outcome, whatever the work makes of it', async () => {
  const said = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  const before = process.listenerCount('SIGINT');
  const works = [
    async () => 'done all the same',
    async () => {
      throw new Error('could not be finished');
    },
  ];
  for (const end of works) {
    const outcome = interruptible((signal) => {
      interrupt();
      expect(signal.aborted).toBe(true);
      interrupt();
      return end();
    });
    await expect(outcome).rejects.toMatchObject({ name: Interrupted.name, exitCode: 130 });
  }
  expect(process.listenerCount('SIGINT')).toBe(before);
  expect(said).toHaveBeenCalledTimes(works.length);
  said.mockRestore();
});

test('work that nobody interrupts has its own outcome', async () => {
  await expect(interruptible(async () => 7)).resolves.toBe(7);
  await expect(interruptible(() => Promise.reject(new Error('broken')))).rejects.toThrow('broken');
});
