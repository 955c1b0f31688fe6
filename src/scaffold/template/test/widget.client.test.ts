/** The device alone, in milliseconds: this test plays the driver. */
import { Vmm } from 'sealbus/client';
import { expect, test } from 'vitest';
import { jobBytes, jobState, ringJobs, WidgetDevice } from '../src/widget.ts';

/** A device that is enabled, with a ring. */
async function started() {
  const vmm = await Vmm.host(new WidgetDevice());
  const ring = vmm.memory.allocate(ringJobs * jobBytes);
  await vmm.bar0.write('ring', ring.gpa);
  await vmm.bar0.write('control', { enable: true });
  const put = (job: number, { gpa, length }: { gpa: number; length: number }) => {
    ring.write64(job * jobBytes, gpa);
    ring.write32(job * jobBytes + 8, length);
  };
  const state = (job: number) => ring.read32(job * jobBytes + 12);
  const sum = (job: number) => ring.read32(job * jobBytes + 16);
  return { vmm, put, state, sum, [Symbol.asyncDispose]: () => vmm[Symbol.asyncDispose]() };
}

test('sums the buffers of two jobs at one doorbell', async () => {
  await using widget = await started();
  const { vmm, put, state, sum } = widget;
  put(0, vmm.memory.allocate(Buffer.from('hello')));
  put(1, vmm.memory.allocate(Buffer.from('123456789')));
  await vmm.bar0.write('doorbell', 2);
  await expect.poll(() => vmm.bar0.read('head')).toBe(2);
  expect([state(0), sum(0)]).toEqual([jobState.done, 0x3610a686]);
  expect([state(1), sum(1)]).toEqual([jobState.done, 0xcbf43926]);
});

test('says by interrupt that a job is done', async () => {
  await using widget = await started();
  const { vmm, put, state } = widget;
  put(0, vmm.memory.allocate(Buffer.from('hello')));
  await vmm.bar0.write('doorbell', 1);
  await vmm.interrupt(0).next();
  expect(state(0)).toBe(jobState.done);
});

test('fails a job whose buffer is not memory, and goes on', async () => {
  await using widget = await started();
  const { vmm, put, state } = widget;
  put(0, { gpa: 0x7fff_f000, length: 16 });
  put(1, vmm.memory.allocate(Buffer.from('hello')));
  await vmm.bar0.write('doorbell', 2);
  await expect.poll(() => vmm.bar0.read('head')).toBe(2);
  expect([state(0), state(1)]).toEqual([jobState.failed, jobState.done]);
});

test('stops with an error at a doorbell that says more than the ring holds', async () => {
  await using widget = await started();
  const { vmm } = widget;
  await vmm.bar0.write('doorbell', ringJobs + 1);
  await vmm.interrupt(0).next();
  expect(await vmm.bar0.read('status')).toMatchObject({ error: true });
  expect(await vmm.bar0.read('head')).toBe(0);
});
