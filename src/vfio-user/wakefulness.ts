/**
 * Keeps the event loop from falling asleep for a moment after a message, while messages come in
 * quick succession: waking another core is most of what a register read costs (45 µs of 50 where
 * client and server sit on two cores).
 *
 * The loop goes round with immediates, so timers, promises and other sockets have their turn in
 * each round. It is bounded: WAIT_US after the last message, then sleep; and after that only BURST
 * messages in a row, each less than WAIT_US after the one before (so that waiting would have met
 * it), bring it back. At rest nothing runs.
 */
const WAIT_US = 100;
const BURST = 8;

export class Wakefulness {
  #last = 0;
  #burst = 0;
  #until = 0;
  #awake = false;

  /** A message has been worked on. */
  message(): void {
    const now = performance.now();
    if (now - this.#last > WAIT_US / 1000) this.#burst = 0;
    this.#last = now;
    if (++this.#burst < BURST) return;
    this.#until = now + WAIT_US / 1000;
    if (this.#awake) return;
    this.#awake = true;
    setImmediate(this.#round);
  }

  /**
   * The last message raised an interrupt: the next word is the guest's, which needs the core to have
   * it. A loop that stayed awake would be in its way where client and server share a core.
   */
  rest(): void {
    this.#burst = 0;
    this.#until = 0;
  }

  readonly #round = (): void => {
    if (performance.now() < this.#until) {
      setImmediate(this.#round);
      return;
    }
    this.#awake = false;
    this.#burst = 0;
  };
}
