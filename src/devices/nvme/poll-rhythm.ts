/**
 * Whether the thread that looks out for the host's next submission gives its core away before it looks
 * again. An interrupt goes through two threads of the VMM on its way to the guest; where cores are
 * scarce, they wait for just the core on which this thread looks out for the guest's answer. On the
 * other hand a sleep costs a wake-up, and a guest that has cores enough answers in less than that.
 *
 * So looks follow each other at once for a moment; and there is a pause
 * - after an interrupt for several commands: those that the host submits meanwhile can wait;
 * - after an interrupt to a host whose last answer took long: its VMM had no core;
 * - between looks that have found nothing for a while.
 *
 * Measured with a guest under TCG on two cores that others used as well: a guest left alone answers an
 * interrupt 86 µs later, one whose VMM has to wait for the core after 350 µs.
 */
const BATCH = 4;
const SLOW_ANSWER_NS = 150_000;
const EAGER_NS = 50_000;
const INTERRUPT_PAUSE_NS = 50_000;
const LOOK_PAUSE_NS = 5_000;

export class PollRhythm {
  #lastActivityNs = 0;
  #interruptedNs: number | undefined;
  #slow = false;
  #giveWay = false;

  /** The host has submitted. */
  submitted(nowNs: number): void {
    this.#lastActivityNs = nowNs;
    if (this.#interruptedNs === undefined) return;
    this.#slow = nowNs - this.#interruptedNs > SLOW_ANSWER_NS;
    this.#interruptedNs = undefined;
  }

  /** The host has consumed completions, or was given some. */
  active(nowNs: number): void {
    this.#lastActivityNs = nowNs;
  }

  /** The host was interrupted for `completions`. */
  interrupted(completions: number, nowNs: number): void {
    this.#interruptedNs = nowNs;
    this.#giveWay = this.#slow || completions >= BATCH;
  }

  /** Nanoseconds without anything. */
  quietNs(nowNs: number): number {
    return nowNs - this.#lastActivityNs;
  }

  /** How long to sleep before the next look; 0 for not at all. Asked once a turn. */
  pauseNs(nowNs: number): number {
    if (this.#giveWay) {
      this.#giveWay = false;
      return INTERRUPT_PAUSE_NS;
    }
    return this.quietNs(nowNs) > EAGER_NS ? LOOK_PAUSE_NS : 0;
  }
}
