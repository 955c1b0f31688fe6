/** `sealbus trace` around `sealbus serve`: a trace of each VM. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Vmm } from '../../../src/client/vmm.ts';
import { readTrace } from '../../../src/trace/index.ts';
import { RunPlace } from '../cli/sealbus.ts';
import { eduReads } from '../serve/edu-transfer.ts';
import { GPA, MIB, vmsOf } from '../serve/service-bench.ts';

let place: RunPlace;
beforeEach(() => {
  place = new RunPlace();
});
afterEach(() => {
  place[Symbol.dispose]();
});

test('VMs that are served together are traced each into a file of its own, in their order', async () => {
  const config = join(place.files, 'vms.yaml');
  const sockets = ['alpha', 'beta'].map((name) => join(place.files, `${name}.sock`));
  const vms = sockets.map((socket, n) => ({
    ...{ name: `vm${n}`, memory: 'plain' },
    functions: [{ device: 'edu', at: '00:04.0', socket }],
  }));
  writeFileSync(config, vmsOf(...vms));
  const output = join(place.files, 'vms.ndjson');
  const flags = ['-o', output, '--data', '4'];
  const serve = ['serve', config, '--json', '--accel', 'tcg'];
  const running = place.start(['trace', ...flags, '--', ...serve]);
  await running.said(/"control":"[^"]+".*\n/);
  for (const [n, socket] of sockets.entries()) {
    await using vmm = await Vmm.connect(socket, { gpa: GPA, bytes: 64 * MIB });
    const { gpa } = vmm.memory.allocate(new Uint8Array(16).fill(n + 1));
    await eduReads(vmm, gpa, 16);
  }
  running.child.kill('SIGTERM');
  const { code, stderr } = await running.ended;
  expect(code, stderr).toBe(0);
  expect(stderr).toMatch(/traced .*vms\.ndjson, .*traced .*vms-2\.ndjson, /s);
  for (const [n, path] of [output, join(place.files, 'vms-2.ndjson')].entries()) {
    const { events, cut } = readTrace(path);
    expect(cut).toBe(false);
    const rid = n === 0 ? '00:04.0' : '0001:00:04.0';
    expect(events.every((event) => !('rid' in event) || event.rid === rid)).toBe(true);
    const dma = events.filter(({ kind }) => kind === 'dma');
    expect(dma).toMatchObject([{ direction: 'read', bytes: 16, data: `0${n + 1}`.repeat(4) }]);
  }
  expect(place.left).toEqual([]);
});
