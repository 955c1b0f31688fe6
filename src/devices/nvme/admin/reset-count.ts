/**
 * Tells work that went on while the event loop turned whether its controller has been reset
 * meanwhile. Such work must not touch guest memory any more: the host gives it to others.
 */
export class ResetCount {
  #resets = 0;

  get now(): number {
    return this.#resets;
  }

  count(): void {
    this.#resets++;
  }
}
