import type { Namespace } from './namespace.ts';

/** Counts a namespace's I/O commands in flight, and holds new ones back while it is formatted. */
export class NamespaceGate {
  readonly namespace: Namespace;
  /** Requests have been submitted to its storage and no kick has followed. */
  kickDue = false;
  #inFlight = 0;
  #closed = 0;
  readonly #waiting: (() => void)[] = [];

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
    };
  }
}
