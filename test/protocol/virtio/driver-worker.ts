/** A driver on a CPU of its own: it shares memory with the device, and nothing else but doorbells. */
import { parentPort, workerData } from 'node:worker_threads';
import { viewOfAddress } from '../../../src/ffi/libc.ts';
import { DriverQueue } from '../../unit/virtio/driver-queue.ts';

export interface DriverWork {
  /** Of the shared memory, in this process. */
  readonly address: number;
  readonly bytes: number;
  readonly size: number;
  readonly features: readonly number[];
  readonly requests: number;
  /** 1 while an interrupt is pending. */
  readonly interrupt: Int32Array;
}

export interface DriverResult {
  readonly error: string | undefined;
  readonly doorbells: number;
  readonly sleeps: number;
}

const SLEEP_MS_MAX = 20_000;
const BUFFERS = 8192;

const work = workerData as DriverWork;
const { interrupt, requests } = work;
const memory = viewOfAddress(work.address, work.bytes);
let doorbells = 0;
let sleeps = 0;
const link = {
  memory,
  write: () => {},
  notify: () => {
    doorbells++;
    parentPort?.postMessage('doorbell');
  },
};

function drive(): string | undefined {
  const queue = new DriverQueue(link, work);
  const free = Array.from({ length: work.size }, (_, n) => BUFFERS + 16 * n);
  let added = 0;
  let done = 0;
  let seed = 1;
  const random = (below: number) => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
    return (seed >>> 16) % below;
  };
  const reap = () => {
    for (const { pending, length } of queue.reap()) {
      const at = pending.readable[0]?.address ?? 0;
      for (let n = 0; n < 4; n++) {
        const expected = (pending.serial + n + 1) & 0xff;
        if (memory[at + 8 + n] !== expected || length !== 4) {
          return `request ${pending.serial}: expected byte ${n} to be ${expected}, got ${memory[at + 8 + n]}, length ${length}`;
        }
      }
      free.push(at);
      done++;
    }
    return undefined;
  };
  while (done < requests) {
    for (let n = random(6); n >= 0 && added < requests && queue.free >= 2; n--) {
      const at = free.pop() as number;
      for (let i = 0; i < 4; i++) memory[at + i] = added + i;
      queue.add([{ address: at, length: 4 }], [{ address: at + 8, length: 4 }]);
      added++;
    }
    queue.kick();
    if (random(4) > 0 && added < requests && queue.free >= 2) {
      const wrong = reap();
      if (wrong !== undefined) return wrong;
      continue;
    }
    Atomics.store(interrupt, 0, 0);
    if (!queue.enableInterrupts() && queue.pending.size > 0) {
      sleeps++;
      if (Atomics.wait(interrupt, 0, 0, SLEEP_MS_MAX) === 'timed-out') {
        return `slept on ${queue.pending.size} requests after ${done}`;
      }
    }
    queue.disableInterrupts();
    const wrong = reap();
    if (wrong !== undefined) return wrong;
  }
  return undefined;
}

let error: string | undefined;
try {
  error = drive();
} catch (thrown) {
  error = String(thrown);
}
parentPort?.postMessage({ error, doorbells, sleeps } satisfies DriverResult);
