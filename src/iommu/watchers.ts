/**
 * Who wants to hear of something. Who only watches must not be in the way of it: not of the abort that a
 * device gets, nor of whoever blocks a function or revokes a slot.
 */
export class Watchers<Told extends readonly unknown[]> {
  readonly #listeners = new Set<(...told: Told) => void>();

  /** Calls `listener` from now on. Answers how to stop that. */
  add(listener: (...told: Told) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** One that throws is a warning of the process; the others are told all the same. */
  tell(...told: Told): void {
    for (const listener of this.#listeners) {
      try {
        listener(...told);
      } catch (error) {
        process.emitWarning(error instanceof Error ? error : String(error));
      }
    }
  }
}
