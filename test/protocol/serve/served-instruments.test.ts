import { afterEach, expect, test } from 'vitest';
import { FaultPlan } from '../../../src/faults/index.ts';
import { eduReads, eduWrites } from './edu-transfer.ts';
import { serviceBench, vmsOf } from './service-bench.ts';

const ends: AsyncDisposable[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end[Symbol.asyncDispose]();
});

test('a plan of faults strikes the VM of a host that it was given to, before and after functions move', async () => {
  const plan = new FaultPlan({ seed: 1 });
  const plain = ['alpha', 'beta'].map((name) => ({ name, memory: 'plain' }));
  const bench = await serviceBench(vmsOf(...plain), {
    ...{ memory: 'plain', instruments: (vm: string) => (vm === 'alpha' ? [plan] : []) },
  });
  ends.push(bench);
  const { client, service } = bench;
  const refused = () => service.host.platform.iommu.faults.records.map(({ vm }) => vm);
  const carries = async (name: string) => {
    const vmm = await bench.vmm(name);
    const sent = vmm.memory.allocate(Buffer.from('carried'));
    const back = vmm.memory.allocate(new Uint8Array(sent.length));
    await eduReads(vmm, sent.gpa, sent.length);
    await eduWrites(vmm, back.gpa, sent.length);
    const carried = Buffer.from(vmm.memory.read(back.gpa, sent.length)).toString();
    await vmm[Symbol.asyncDispose]();
    return carried === 'carried';
  };
  plan.arm('dma.refuse', { every: 1 });
  expect(await carries('alpha')).toBe(false);
  expect(await carries('beta')).toBe(true);
  expect([plan.struck, ...refused()]).toEqual([2, 1, 1]);

  // alpha's goes to beta, beside the one that is there, and is out of the plan's reach.
  await client.ask('vm-remove', { vm: 'beta' });
  const other = vmsOf({ name: 'beta', memory: 'plain', functions: [] });
  await client.ask('vm-add', { text: other, file: 'other', directory: bench.directory });
  await client.ask('bind', { rid: '00:04.0', target: 'beta' });
  expect(await carries('beta')).toBe(true);
  expect([plan.struck, ...refused()]).toEqual([2, 1, 1]);
});
