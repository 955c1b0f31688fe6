/**
 * Tells accesses that come in one turn of the event loop, without anything between them, from those
 * after which promises have gone on. Costs a microtask a turn.
 */
export class Turn {
  #goingOn = false;
  readonly #over = () => {
    this.#goingOn = false;
  };

  /** Whether it was asked before in this turn. */
  goesOn(): boolean {
    if (this.#goingOn) return true;
    this.#goingOn = true;
    queueMicrotask(this.#over);
    return false;
  }
}
