import { reg8, ro32, ro64 } from '../../../src/pci/index.ts';
import {
  type Chain,
  deviceConfig,
  VirtioFunction,
  type VirtioResetCause,
  type Virtqueue,
} from '../../../src/virtio/index.ts';

/** Feature bits of its own. */
export const UPPER = 0;
/** Needs UPPER. */
export const TWICE = 60;

/** Answers each request with its bytes, each plus one, as far as there is room. */
export class Echo extends VirtioFunction {
  static override readonly virtio = {
    type: 42,
    features: [UPPER, TWICE],
    queues: [
      { name: 'echo', size: 256, prefetch: 8 },
      { name: 'later', size: 1024 },
    ],
  };

  readonly config = deviceConfig({
    capacity: ro64(0, { reset: 0x1122_3344_5566_7788n }),
    mode: reg8(8, { onWrite: (mode) => void this.log.push(`mode ${mode}`) }),
    count: ro32(12),
  });
  readonly log: string[] = [];
  /** Chains of 'later' stay here until release(). */
  readonly held: Chain[] = [];
  /** Instead of the echo. */
  onChain: ((chain: Chain, queue: Virtqueue) => void | Promise<void>) | undefined;
  /** Instead of all of that. */
  onQueueOf: ((queue: Virtqueue) => void | Promise<void>) | undefined;
  calls = 0;

  protected override acceptFeatures(has: (feature: number) => boolean): boolean {
    return has(UPPER) || !has(TWICE);
  }

  protected override onQueue(queue: Virtqueue): void | Promise<void> {
    this.calls++;
    if (this.onQueueOf !== undefined) return this.onQueueOf(queue);
    if (queue.name === 'later') {
      for (let chain = queue.take(); chain; chain = queue.take()) this.held.push(chain);
      return;
    }
    const { onChain } = this;
    if (onChain !== undefined) return this.#each(queue, onChain);
    for (let chain = queue.take(); chain; chain = queue.take()) {
      echo(chain);
      queue.put(chain);
    }
  }

  async #each(queue: Virtqueue, run: NonNullable<Echo['onChain']>): Promise<void> {
    for (let chain = queue.take(); chain; chain = queue.take()) await run(chain, queue);
  }

  protected override onDriverOk(): void {
    this.log.push('driver ok');
  }

  protected override onDeviceReset(cause: VirtioResetCause): void {
    this.log.push(`reset: ${cause}`);
    this.held.length = 0;
  }

  protected override onQueueReset(queue: Virtqueue): void {
    this.log.push(`queue reset: ${queue.name}`);
  }

  /** Answers the held chains in the order of these picks. */
  release(picks: readonly number[]): void {
    for (const pick of picks) {
      const [chain] = this.held.splice(pick % Math.max(1, this.held.length), 1);
      if (chain === undefined) break;
      echo(chain);
      this.later.put(chain);
    }
    this.later.flush();
  }

  get echo(): Virtqueue {
    return this.queue('echo');
  }

  get later(): Virtqueue {
    return this.queue('later');
  }

  has(feature: number): boolean {
    return this.negotiated(feature);
  }

  grow(): void {
    this.config.count++;
    this.configChanged();
  }

  giveUp(): void {
    this.needsReset('the device gives up');
  }

  async sleepLong(): Promise<string> {
    try {
      await this.clock.sleep(1e9);
      return 'slept';
    } catch (error) {
      return error instanceof Error ? error.name : String(error);
    }
  }
}

/** In pieces, so that short and longer writes meet. */
export function echo(chain: Chain): void {
  const bytes = chain.read(0, Math.min(chain.readable, chain.writable));
  for (const [n, byte] of bytes.entries()) bytes[n] = byte + 1;
  const cut = Math.floor(bytes.length / 3);
  if (cut > 0) chain.write(bytes.subarray(0, cut));
  if (bytes.length > cut) chain.write(bytes.subarray(cut));
}
