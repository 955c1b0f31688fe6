/**
 * When completions that are held go to the host. In a guest an interrupt costs more than the command
 * it is for, so where a host keeps several commands under way they end in batches: it reaps many,
 * submits as many again, and is interrupted once. A host with one command under way gets it at once.
 *
 * The number is learnt: `depth` is how many commands the host was last seen to have under way. It
 * rises as soon as there are more. A batch goes out
 * - when `depth` times `share` completions are held. With all of them (1) the host is interrupted
 *   least, and stands still while the last of them are done; with half it submits the ones while the
 *   others are done;
 * - when nothing was submitted and nothing completed for QUIET_NS: the host has fewer under way now,
 *   and the depth falls to what was held;
 * - when the oldest has been held for HELD_NS_MAX.
 */
const QUIET_NS = 80_000;
const HELD_NS_MAX = 500_000;
/** A larger batch saves nothing more, and delays the first of it. */
const DEPTH_MAX = 64;

export class Coalescing {
  readonly #share: number;
  #depth = 1;
  #batch = 1;
  #heldSinceNs = 0;
  #lastNs = 0;

  /** @param share of the commands under way that make a batch, above 0 to 1 */
  constructor(share: number) {
    this.#share = share;
  }

  /** Completions that make a batch. */
  get batch(): number {
    return this.#batch;
  }

  /** Commands were taken; `outstanding` are under way as the host sees it. */
  submitted(outstanding: number, nowNs: number): void {
    this.#lastNs = nowNs;
    if (outstanding > this.#depth) this.#learn(Math.min(outstanding, DEPTH_MAX));
  }

  /** One more is held, `count` now. */
  held(count: number, nowNs: number): void {
    this.#lastNs = nowNs;
    if (count === 1) this.#heldSinceNs = nowNs;
  }

  /** Whether `count` held completions are to go now. */
  due(count: number, nowNs: number): boolean {
    if (count >= this.#batch) return true;
    if (nowNs - this.#lastNs >= QUIET_NS) {
      this.#learn(count);
      return true;
    }
    return nowNs - this.#heldSinceNs >= HELD_NS_MAX;
  }

  /** A batch has gone out, `left` are held on. */
  posted(left: number, nowNs: number): void {
    if (left > 0) this.#heldSinceNs = nowNs;
  }

  #learn(depth: number): void {
    this.#depth = depth;
    this.#batch = Math.ceil(depth * this.#share);
  }
}
