import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const main = join(import.meta.dirname, '../../../bench/main.ts');

interface Ended {
  readonly code: number | string | null;
  readonly stdout: string;
  readonly stderr: string;
}

function bench(...args: string[]): Promise<Ended> {
  return new Promise((resolve) => {
    execFile(process.execPath, [main, ...args], (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : (error.code ?? null), stdout, stderr });
    });
  });
}

test('--json prints one object and nothing else on stdout, and the status says what it says', async () => {
  const { code, stdout, stderr } = await bench('--json', '--only', 'xts');
  expect(stdout.trimEnd().split('\n')).toHaveLength(1);
  const result = JSON.parse(stdout);
  expect(Object.keys(result)).toEqual(['met', 'seconds', 'machine', 'xts', 'bars']);
  expect(result.xts).toMatchObject({
    ratio: expect.any(Number),
    peer: expect.stringContaining('C loop'),
    bar: { atLeast: 0.75 },
  });
  expect(code).toBe(result.met ? 0 : 1);
  expect(stderr).toContain('xts');
});

test('an unknown benchmark is named with those that there are, and nothing runs', async () => {
  const { code, stdout, stderr } = await bench('--json', '--only', 'xts,speed');
  expect(code).toBe(2);
  expect(stdout).toBe('');
  expect(stderr).toMatch(
    /mmio,xts,dma,vms,boot,memory,rotation,trace,guest-tests,nvme,rotation-fio.*got speed/,
  );
});

test('a benchmark may be named without --only; a number of CPUs that none has is refused', async () => {
  const { code, stderr } = await bench('--json', 'xts', '--cpus', '0');
  expect(code).toBe(2);
  expect(stderr).toMatch(/1 to 64 virtual CPUs, got 0/);
});
