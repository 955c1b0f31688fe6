/**
 * Has the controller take its turns on the event loop: after what woke it (a doorbell, a request that
 * is done), so that what came in together is worked on together, and again as long as a turn says that
 * there is something to wait for. Sockets, timers and promises have their turn in between.
 */
export class Pulse {
  readonly #turn: () => boolean;
  readonly #failed: (error: unknown) => void;
  #scheduled = false;

  /** @param turn answers whether another one is to follow @param failed hears of what it throws */
  constructor(turn: () => boolean, failed: (error: unknown) => void) {
    this.#turn = turn;
    this.#failed = failed;
  }

  request(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(this.#beat);
  }

  readonly #beat = (): void => {
    this.#scheduled = false;
    try {
      if (this.#turn()) this.request();
    } catch (error) {
      this.#failed(error);
    }
  };
}
