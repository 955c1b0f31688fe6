/** docs/client-and-replay.md: its blocks of TypeScript are lines of this file, and these tests run them. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Vmm } from 'sealbus/client';
import { replay } from 'sealbus/replay';
import { readTrace, Trace } from 'sealbus/trace';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Adder } from '../../../examples/adder/adder.ts';

const home = process.cwd();
const directory = mkdtempSync(join(tmpdir(), 'sealbus-page-'));
beforeAll(() => process.chdir(directory));
afterAll(() => {
  process.chdir(home);
  rmSync(directory, { recursive: true, force: true });
});

test('sums a buffer', async () => {
  await using vmm = await Vmm.host(new Adder());
  const buffer = vmm.memory.allocate(Uint8Array.of(1, 2, 3));
  await vmm.bar0.write('source', buffer.gpa);
  await vmm.bar0.write('length', buffer.length);
  await vmm.bar0.write('control', { go: true });
  await vmm.interrupt(0).next();
  expect(await vmm.bar0.read('sum')).toBe(6);
});

test('an address that nobody allocated is refused', async () => {
  await using vmm = await Vmm.host(new Adder(), { iommu: 'buffers' });
  const buffer = vmm.memory.allocate(16);
  buffer.free();
  await vmm.bar0.write('source', buffer.gpa);
  await vmm.bar0.write('length', 16);
  await vmm.bar0.write('control', { go: true });
  await vmm.interrupt(0).next();
  expect((await vmm.bar0.read('control')).error).toBe(true);
  expect(vmm.faults.records).toMatchObject([{ direction: 'read', reason: 'unmapped' }]);
});

test('a session is recorded', async () => {
  const trace = new Trace({ dataBytesMax: Number.POSITIVE_INFINITY, sink: 'sums.ndjson' });
  await using vmm = await Vmm.host(new Adder(), { instruments: [trace] });
  await vmm.bar0.write('source', vmm.memory.allocate(3).gpa);
  await vmm.bar0.write('length', 3);
  await vmm.bar0.write('control', { go: true });
  await vmm.interrupt(0).next();
  await vmm.bar0.read('sum');
});

test('does what it did with the driver of yesterday', async () => {
  (await replay(readTrace('sums.ndjson'), () => new Adder())).check();
});

test('the page shows what stands here', () => {
  const page = readFileSync(join(home, 'docs/client-and-replay.md'), 'utf8');
  const blocks = [...page.matchAll(/```ts\n(.*?)```/gs)].map(([, block = '']) => block);
  expect(blocks).toHaveLength(4);
  const lines = (text: string) => text.split('\n').map((line) => line.trim());
  const here = lines(readFileSync(import.meta.filename, 'utf8')).join('\n');
  for (const block of blocks) {
    // Where things are imported from is another matter there.
    const code = lines(block).filter((line) => line !== '' && !line.startsWith('import '));
    expect(here).toContain(code.join('\n'));
  }
});
