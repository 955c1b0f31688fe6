/** Which VMs change at this moment, by name: each by one thing at a time. */
export class VmChanges {
  readonly #names = new Set<string>();
  readonly #work = new Set<Promise<unknown>>();

  has(name: string): boolean {
    return this.#names.has(name);
  }

  /** Whether something of {@link alone} is under way. */
  get underWay(): boolean {
    return this.#work.size > 0;
  }

  /** A name is kept until this is disposed of; nobody waits for what is done with it. */
  keep(name: string): Disposable {
    this.#names.add(name);
    return { [Symbol.dispose]: () => void this.#names.delete(name) };
  }

  /** @throws Error where one of these VMs changes at this moment */
  expectNone(names: readonly string[]): void {
    const busy = names.find((name) => this.#names.has(name));
    if (busy === undefined) return;
    throw new Error(`expected a VM at rest, got ${busy}, which changes at this moment: try again`);
  }

  /** Nobody else changes these VMs meanwhile, and none of them ends. @throws as {@link expectNone} */
  async alone<T>(names: readonly string[], work: () => Promise<T>): Promise<T> {
    this.expectNone(names);
    using kept = new DisposableStack();
    for (const name of new Set(names)) kept.use(this.keep(name));
    const working = work();
    this.#work.add(working);
    try {
      return await working;
    } finally {
      this.#work.delete(working);
    }
  }

  /** All that is under way now has come to its end, good or bad. */
  async settled(): Promise<void> {
    await Promise.allSettled(this.#work);
  }
}
