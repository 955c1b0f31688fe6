/** `sealbus doctor`: every part, found or not, with an exit code that is honest. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import type { PartReport } from '../../../src/setup/parts.ts';
import { RunPlace } from './sealbus.ts';

const place = new RunPlace();
const empty = mkdtempSync(join(tmpdir(), 'sealbus-doctor-'));
afterAll(() => {
  place[Symbol.dispose]();
  rmSync(empty, { recursive: true, force: true });
});

const parts = ['qemu', 'libvfio-user', 'kernel', 'busybox'];
const host = ['gcc', 'make', 'setpriv', 'fusermount3', '/dev/fuse', '/dev/kvm'];

it('lists every part, a line each, and ends with 0 where all that is needed is there', async () => {
  const { code, stdout, stderr } = await place.run(['doctor']);
  expect([code, stderr]).toEqual([0, '']);
  for (const name of parts)
    expect(`${stdout}`).toMatch(new RegExp(`^found +${name} +\\S+ +/`, 'm'));
  for (const name of host)
    expect(`${stdout}`).toMatch(new RegExp(`^(found|missing) +${name} +`, 'm'));
});

it('says the same as JSON', async () => {
  const { code, stdout, stderr } = await place.run(['doctor', '--json']);
  expect([code, stderr]).toEqual([0, '']);
  const reports = JSON.parse(`${stdout}`) as PartReport[];
  expect(reports.map(({ name }) => name)).toEqual(expect.arrayContaining([...parts, ...host]));
  for (const report of reports) {
    expect(report).toMatchObject(report.found ? { where: expect.any(String) } : { remedy: /./ });
  }
});

it('lists kernels: what the suites have, and the one that guests get', async () => {
  const json = async (env: Record<string, string>) => {
    const { code, stdout } = await place.run(['doctor', '--json'], { env });
    return { code, reports: JSON.parse(`${stdout}`) as PartReport[] };
  };
  const kernels = (reports: readonly PartReport[]) =>
    reports
      .filter(({ name }) => /kernel/i.test(name))
      .map(({ name, required }) => [name, required]);
  const trixie = await json({ SEALBUS_KERNEL: '' });
  expect(kernels(trixie.reports)).toEqual(
    expect.arrayContaining([
      ['kernel', true],
      ['kernel-backports', false],
    ]),
  );
  const wrong = await json({ SEALBUS_KERNEL: 'hurd' });
  expect(wrong.code).toBe(1);
  expect(wrong.reports.find(({ name }) => name === 'SEALBUS_KERNEL')).toMatchObject({
    found: false,
    required: true,
    remedy: expect.stringContaining('"hurd"'),
  });
  expect(kernels(wrong.reports)).toEqual(expect.arrayContaining([['kernel', false]]));
});

it('says what is missing and what to do where nothing is set up, and ends with 1', async () => {
  const env = { XDG_CACHE_HOME: empty, SEALBUS_QEMU: '' };
  const { code, stdout } = await place.run(['doctor'], { env });
  expect(code).toBe(1);
  for (const name of parts.filter((part) => part !== 'qemu')) {
    expect(`${stdout}`).toMatch(new RegExp(`^MISSING +${name} +npm run setup$`, 'm'));
  }
  const json = await place.run(['doctor', '--json'], { env });
  expect(json.code).toBe(1);
  const reports = JSON.parse(`${json.stdout}`) as PartReport[];
  expect(reports.find(({ name }) => name === 'kernel')).toMatchObject({
    found: false,
    required: true,
    remedy: 'npm run setup',
  });
  expect(readdirSync(empty), 'it changes nothing').toEqual([]);
});
