/** `sealbus subsystem` against a `sealbus serve` that runs. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { RunPlace } from '../cli/sealbus.ts';

let place: RunPlace;
beforeEach(() => {
  place = new RunPlace();
});
afterEach(() => {
  place[Symbol.dispose]();
});

const pool = `subsystems:
  - name: pool
    virtual-functions: 2
    namespaces:
      - { file: one.img, function: 1 }
      - { file: spare.img, read-only: true }
vms:
  - name: alpha
    memory: plain
    size: 64M
    functions:
      - { device: nvme, subsystem: pool, function: 1, at: 00:05.0 }
`;

function configured(text: string): string {
  for (const name of ['one.img', 'spare.img']) {
    writeFileSync(join(place.files, name), new Uint8Array(2 ** 20));
  }
  const path = join(place.files, 'vms.yaml');
  writeFileSync(path, text);
  return path;
}

async function said(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await place.run(args);
  expect([code, stderr]).toEqual([0, '']);
  return stdout.toString();
}

test('they show who has what, assign, and remove', async () => {
  const config = configured(pool);
  const running = place.start(['serve', config, '--accel', 'tcg']);
  await running.said(/^qemu-system|\/qemu-system/m);
  expect(await said('subsystem', 'list')).toBe(
    'NAME  VIRTUAL  NAMESPACES  VMS\npool  2        2           1: alpha\n',
  );
  expect(await said('ps')).toMatch(/ OF SUBSYSTEMS .*\n.* pool\/1 /);
  expect(await said('inspect', 'alpha')).toMatch(/^0000:00:05\.0 .* nvme pool\/1 /m);

  const pending =
    "namespace 2 of pool is function 1's: function 1 gets it when it is moved, or given to a VM again\n";
  expect(await said('subsystem', 'assign', 'pool', '2', '1')).toBe(pending);
  expect(await said('subsystem', 'assign', 'pool', '1', 'none')).toBe(
    "namespace 1 of pool is nobody's: function 1 of VM alpha keeps it until it is moved, or its VM removed\n",
  );
  const text = await said('subsystem', 'inspect', 'pool');
  expect(text).toMatch(/^1 +alpha +0000:00:05\.0 +1$/m);
  expect(text).toMatch(
    /^1 +none +alpha +1048576 +512 +- .*one\.img +\(function 1 of VM alpha keeps/m,
  );
  expect(text).toMatch(
    /^2 +1 +- +1048576 +512 +read only .*spare\.img +\(function 1 gets it when/m,
  );

  const refused = await place.run(['subsystem', 'remove', 'pool']);
  expect([refused.code, refused.stdout.toString()]).toEqual([1, '']);
  expect(refused.stderr).toContain("function 1 is alpha's");
  await said('vm', 'remove', 'alpha');
  await said('subsystem', 'remove', 'pool');
  expect(JSON.parse(await said('subsystem', 'list', '--json'))).toEqual([]);
  const wrong = await place.run(['subsystem', 'assign', 'pool', '1', 'some']);
  expect(wrong.code).not.toBe(0);
  expect(wrong.stderr).toContain('expected a whole number');
  running.child.kill('SIGTERM');
  expect((await running.ended).code).toBe(0);
  expect((await running.ended).stdout.toString()).toContain(
    '#   0000:00:05.0 in the guest is 0000:00:05.0, function 1 of subsystem pool\n',
  );
  expect(place.left).toEqual([]);
});

test('what is wrong with a subsystem stops serve before it begins', async () => {
  const config = configured(pool.replace('function: 1, at', 'function: 3, at'));
  const { code, stdout, stderr } = await place.run(['serve', '--check', config]);
  expect([code, stdout.toString()]).toEqual([1, '']);
  expect(stderr).toContain(
    `${config}:12: vms[0].functions[0].function: expected a function of pool, 0 to 2, got 3`,
  );
});
