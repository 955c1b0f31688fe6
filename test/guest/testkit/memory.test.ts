/** Driver tests on a host that cannot seal memory: /dev/fuse is taken away in a mount namespace. */
import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { ChildVitest } from './child-vitest.ts';

const root = process.getuid?.() === 0 && spawnSync('unshare', ['-m', 'true']).status === 0;
const withoutFuse = [
  ...['unshare', '-m', 'sh', '-c'],
  'mount --make-rprivate / && mount --bind /dev/null /dev/fuse && exec "$@"',
  'sh',
];

describe.skipIf(!root)(
  'without /dev/fuse (skipped where the tests are not run by root, with unshare)',
  () => {
    it('a test has plain memory, said loudly; one that insists on sealed fails by that', async () => {
      using child = new ChildVitest('memory.failing.ts', { under: withoutFuse });
      expect(await child.exited).toBe(1);
      const report = child.report();
      expect(report.get('takes plain memory')).toMatchObject({ status: 'passed' });
      expect(report.get('insisting fails')?.message).toMatch(/expected .*fuse/i);
      expect(child.output).toMatch(/WARNING: NOTHING IS ENCRYPTED: guest memory is plain, since/);
    });
  },
);
