import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';

const here = fileURLToPath(new URL('.', import.meta.url));

/** What one of them did: its stores, and those that it did not find again. */
export interface VcpuResult {
  readonly stores: number;
  readonly lost: number;
}

export interface Vcpus {
  /** Stops both, and waits for their words. */
  stop(): Promise<VcpuResult[]>;
}

/** Two threads that store to the same pages of a RAM file, as vcpu-worker.ts does; both are at it. */
export async function twoVcpus(what: {
  readonly path: string;
  readonly offset: number;
  readonly pages: number;
  readonly pauseEvery: number;
}): Promise<Vcpus> {
  const stop = new SharedArrayBuffer(4);
  const workers = [0, 1].map(
    (id) => new Worker(join(here, 'vcpu-worker.ts'), { workerData: { ...what, id, stop } }),
  );
  await Promise.all(workers.map((worker) => once(worker, 'message')));
  return {
    async stop() {
      const results = workers.map((worker) => once(worker, 'message'));
      Atomics.store(new Int32Array(stop), 0, 1);
      Atomics.notify(new Int32Array(stop), 0);
      const vcpus = (await Promise.all(results)).map(([result]) => result as VcpuResult);
      await Promise.all(workers.map((worker) => worker.terminate()));
      return vcpus;
    },
  };
}
