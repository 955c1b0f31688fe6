import type { Namespace } from './namespace.ts';

/** Counts a namespace's I/O commands in flight, and holds new ones back while it is formatted. */
export class NamespaceGate {
  readonly namespace: Namespace;
  /** Requests have been submitted to its storage and no kick has followed. */
  kickDue = false;
  #inFlight = 0;
  #closed = 0;
  readonly #waiting: (() => void)[] = [];
  readonly #resting: (() => void)[] = [];

  constructor(namespace: Namespace) {
    this.namespace = namespace;
  }

  get closed(): boolean {
    return this.#closed > 0;
  }

  enter(): void {
    this.#inFlight++;
  }

  leave(): void {
    this.#inFlight--;
    if (this.#inFlight > 0) return;
    for (const resolve of this.#waiting.splice(0)) resolve();
    this.#rest();
  }

  /** Waits until no command is in flight and nobody holds it closed: its storage is left alone then. */
  async idle(): Promise<void> {
    if (this.#inFlight === 0 && this.#closed === 0) return;
    await new Promise<void>((resolve) => {
      this.#resting.push(resolve);
    });
  }

  /** Lets no new command in, and waits for the others; the answer opens it again. */
  async close(): Promise<() => void> {
    this.#closed++;
    if (this.#inFlight > 0) {
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
      });
    }
    let open = false;
    return () => {
      if (open) return;
      open = true;
      this.#closed--;
      this.#rest();
    };
  }

  #rest(): void {
    if (this.#inFlight > 0 || this.#closed > 0) return;
    for (const resolve of this.#resting.splice(0)) resolve();
  }
}
