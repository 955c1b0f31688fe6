/**
 * When completions that are held go to the host. In a guest an interrupt costs more than the command
 * it is for, so where a host keeps several commands under way they end together: it reaps them all,
 * submits as many again, and is interrupted once. A host with one command under way gets it at once.
 *
 * The number is learnt: `target` is how many commands the host was last seen to have under way. It
 * rises as soon as there are more. A batch goes out
 * - when `target` completions are held: the host waits for them, for it has no more under way;
 * - when nothing was submitted and nothing completed for QUIET_NS: the host has fewer under way now,
 *   and the target falls to what was held;
 * - when the oldest has been held for HELD_NS_MAX.
 */
const QUIET_NS = 40_000;
const HELD_NS_MAX = 300_000;
/** A larger batch saves nothing more, and delays the first of it. */
const TARGET_MAX = 64;

export class Coalescing {
  #target = 1;
  #heldSinceNs = 0;
  #lastNs = 0;

  /** Completions that make a batch. */
  get target(): number {
    return this.#target;
  }

  /** Commands were taken; `outstanding` are under way as the host sees it. */
  submitted(outstanding: number, nowNs: number): void {
    this.#lastNs = nowNs;
    if (outstanding > this.#target) this.#target = Math.min(outstanding, TARGET_MAX);
  }

  /** One more is held, `count` now. */
  held(count: number, nowNs: number): void {
    this.#lastNs = nowNs;
    if (count === 1) this.#heldSinceNs = nowNs;
  }

  /** Whether `count` held completions are to go now. */
  due(count: number, nowNs: number): boolean {
    if (count >= this.#target) return true;
    if (nowNs - this.#lastNs >= QUIET_NS) {
      this.#target = Math.max(1, count);
      return true;
    }
    return nowNs - this.#heldSinceNs >= HELD_NS_MAX;
  }

  posted(_count: number, left: number, nowNs: number): void {
    if (left > 0) this.#heldSinceNs = nowNs;
  }
}
