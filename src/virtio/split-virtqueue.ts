import type { CompletionPoint } from '../pci/completion.ts';
import type { ResetAbort } from '../pci/epoch.ts';
import { RingChain } from './ring-chain.ts';
import type { SplitRing } from './split-ring.ts';
import type { Chain, Virtqueue } from './virtqueue.ts';

/** What a queue needs of the device that it belongs to. */
export interface QueueHost {
  /** What was thrown while the queue worked on the rings. Rethrows what is a bug of ours. */
  broken(error: unknown): void;
  /** Where chains pass that are put back; undefined where nobody may stand in their way. */
  readonly completionPoint: CompletionPoint | undefined;
  /** The driver wants an interrupt for used chains. */
  interrupt(queue: SplitVirtqueue): void;
}

/** A queue as its device knows it, from the first enabling to the last. */
export class SplitVirtqueue implements Virtqueue {
  readonly name: string;
  readonly index: number;
  readonly #prefetch: number;
  readonly #host: QueueHost;
  #ring: SplitRing | undefined;
  #halted = false;
  /** Fetched and not taken yet, from the cursor on. */
  #ready: RingChain[] = [];
  #cursor = 0;
  /** Put back and not shown yet. */
  #heads: number[] = [];
  #lengths: number[] = [];
  #inFlight = 0;
  /** While onQueue runs: whether it took chains, and whether it saw that there are no more. */
  #serving = false;
  #took = false;
  #drained = false;
  /** While onQueue runs: the ring was looked at, and what it gave is not all taken or just so. */
  #looked = false;

  constructor(
    { name, prefetch = 0 }: { readonly name: string; readonly prefetch?: number },
    index: number,
    host: QueueHost,
  ) {
    this.name = name;
    this.index = index;
    this.#prefetch = prefetch;
    this.#host = host;
  }

  get live(): boolean {
    return this.#ring !== undefined && !this.#halted;
  }

  get size(): number {
    return this.#ring?.size ?? 0;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  take(): Chain | undefined {
    if (!this.live) return undefined;
    if (this.#cursor === this.#ready.length && !this.#fetch()) return undefined;
    const chain = this.#ready[this.#cursor++];
    this.#inFlight++;
    this.#took = true;
    return chain;
  }

  put(chain: Chain, written = chain.written): void {
    if (!(chain instanceof RingChain)) throw new TypeError('expected a chain of a virtqueue');
    if (chain.ring.ended !== undefined) throw chain.ring.ended;
    if (chain.ring !== this.#ring) {
      throw new Error(`expected a chain of queue '${this.name}', got one of another`);
    }
    if (chain.back)
      throw new Error(`expected a chain in flight, got one that was put back already`);
    if (!Number.isInteger(written) || written < 0 || written > chain.writable) {
      throw new RangeError(
        `expected at most ${chain.writable} bytes written to the chain, got ${written}`,
      );
    }
    chain.back = true;
    this.#inFlight--;
    // A chain may have 2^32 writable bytes: of a full one the length does not fit.
    const length = Math.min(written, 0xffff_ffff);
    const gate = this.#host.completionPoint?.gate;
    if (gate === undefined) {
      this.#heads.push(chain.head);
      this.#lengths.push(length);
      return;
    }
    let atOnce = true;
    gate.pass({
      queue: this.index,
      name: `chain ${chain.head} of queue '${this.name}'`,
      deliver: () => this.#deliver(chain, length, atOnce),
    });
    atOnce = false;
  }

  /** A chain that somebody stood in the way of: it may come late, and more than once. */
  #deliver(chain: RingChain, length: number, atOnce: boolean): void {
    const ring = this.#ring;
    if (ring === undefined || chain.ring !== ring) return;
    // One publication has room for a ring of them.
    if (this.#heads.length === ring.size) this.flush();
    this.#heads.push(chain.head);
    this.#lengths.push(length);
    if (!atOnce) this.flush();
  }

  flush(): void {
    if (this.#heads.length > 0) this.#publish(false);
  }

  /** Before onQueue. */
  beginService(): void {
    this.#serving = true;
    this.#took = false;
    this.#drained = false;
    this.#looked = false;
  }

  /**
   * After onQueue: shows what was put back, and asks to be told of more where all was taken.
   * @returns whether there is more now, so that onQueue should run again
   */
  endService(): boolean {
    this.#serving = false;
    this.#looked = false;
    const ring = this.#ring;
    if (ring === undefined || this.#halted) return false;
    // Taken to the last, though it may not have looked for more: the driver must tell of the next.
    const left = this.#cursor < this.#ready.length || ring.more;
    const arm = this.#drained || (this.#took && !left);
    const shown = this.#heads.length > 0;
    if (shown) this.#publish(arm);
    if (!this.live) return false;
    // One that leaves chains where they are, having taken none, wants no more of them now.
    if (!arm) return this.#took;
    try {
      return shown ? ring.more : ring.arm();
    } catch (error) {
      this.#host.broken(error);
      return false;
    }
  }

  /** The driver has enabled the queue, and the device runs. */
  enable(ring: SplitRing): void {
    this.#ring = ring;
    this.#halted = false;
  }

  /** The device needs a reset: what is in the rings counts no more. */
  halt(): void {
    this.#halted = true;
  }

  /** A reset of the device or of the queue: chains that were taken are void. */
  disable(reason: ResetAbort): void {
    if (this.#ring !== undefined) this.#ring.ended = reason;
    this.#ring = undefined;
    this.#halted = false;
    this.#ready = [];
    this.#cursor = 0;
    this.#heads = [];
    this.#lengths = [];
    this.#inFlight = 0;
    this.#serving = false;
    this.#looked = false;
  }

  #fetch(): boolean {
    const ring = this.#ring as SplitRing;
    if (this.#looked && !ring.more) {
      // Not again at once: endService() has to look anyway, after it has shown what is done.
      this.#looked = false;
      this.#drained = true;
      return false;
    }
    try {
      let chains = ring.fetch();
      if (chains.length === 0) {
        if (this.#serving) {
          // endService() asks to be told, together with what it has to write anyway.
          this.#drained = true;
          return false;
        }
        if (!ring.arm()) return false;
        chains = ring.fetch();
      }
      this.#ready = chains.map((buffers) => new RingChain(ring, buffers));
      this.#cursor = 0;
      RingChain.prefetch(this.#ready, this.#prefetch);
      this.#drained = false;
      this.#looked = this.#serving;
      return true;
    } catch (error) {
      this.#host.broken(error);
      return false;
    }
  }

  #publish(arm: boolean): void {
    const ring = this.#ring;
    if (ring === undefined || this.#halted) return;
    const heads = this.#heads;
    const lengths = this.#lengths;
    this.#heads = [];
    this.#lengths = [];
    try {
      if (ring.publish(heads, lengths, arm)) this.#host.interrupt(this);
    } catch (error) {
      this.#host.broken(error);
    }
  }
}
