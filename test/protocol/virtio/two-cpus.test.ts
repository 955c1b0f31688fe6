import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import {
  copyFromAddress,
  copyToAddress,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  mmap,
  PROT_READ,
  PROT_WRITE,
  viewOfAddress,
} from '../../../src/ffi/libc.ts';
import { EVENT_IDX, INDIRECT, VERSION_1, VirtioBench } from '../../unit/virtio/bench.ts';
import { DriverQueue } from '../../unit/virtio/driver-queue.ts';
import { Echo } from '../../unit/virtio/echo.ts';
import type { DriverResult, DriverWork } from './driver-worker.ts';

const BYTES = 65536;
const SIZE = 16;

/** Driver and device at the same time, on memory that both reach as plain guest memory is reached. */
async function drive(features: readonly number[], requests: number): Promise<DriverResult> {
  const address = mmap(0, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
  const memory = viewOfAddress(address, BYTES);
  const device = new Echo();
  const bench = new VirtioBench(device);
  bench.dma.readInto = (iova, into) => copyFromAddress(into, address + Number(iova));
  bench.dma.writeFrom = (iova, from) => copyToAddress(address + Number(iova), from);
  const interrupt = new Int32Array(new SharedArrayBuffer(4));
  bench.interrupts.message = () => {
    Atomics.store(interrupt, 0, 1);
    Atomics.notify(interrupt, 0);
  };
  bench.negotiate(features);
  new DriverQueue(
    {
      memory,
      write: (offset, value, width) => bench.write(offset, value, width),
      notify: () => {},
    },
    { size: SIZE, features },
  );
  bench.ready();
  const workerData: DriverWork = {
    address,
    bytes: BYTES,
    size: SIZE,
    features,
    requests,
    interrupt,
  };
  const worker = new Worker(new URL('./driver-worker.ts', import.meta.url), { workerData });
  try {
    const result = await new Promise<DriverResult>((resolve, reject) => {
      worker.on('message', (message: 'doorbell' | DriverResult) => {
        if (message === 'doorbell') bench.notify(0);
        else resolve(message);
      });
      worker.on('error', reject);
    });
    expect(bench.faults).toEqual([]);
    return result;
  } finally {
    await worker.terminate();
  }
}

describe('a virtqueue between two CPUs', () => {
  it.each([
    ['flags', [VERSION_1]],
    ['event index and indirect descriptors', [VERSION_1, EVENT_IDX, INDIRECT]],
  ])('loses nothing and wakes whom it must, by %s', async (_, features) => {
    const requests = 100_000;
    const result = await drive(features, requests);
    expect(result.error).toBeUndefined();
    expect(result.sleeps).toBeGreaterThan(0);
    expect(result.doorbells).toBeGreaterThan(0);
  });
});
