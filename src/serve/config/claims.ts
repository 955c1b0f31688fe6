import { ConfigError, type ConfigPlace } from './config-place.ts';

/** What each of several may be alone, and two have. */
export class Claims<T> {
  readonly #what: string;
  readonly #taken = new Map<T, ConfigPlace>();

  /** @param what as the error names it, such as `a name` */
  constructor(what: string) {
    this.#what = what;
  }

  claim(
    { value, place }: { readonly value: T; readonly place: ConfigPlace },
    shown = String(value),
  ): ConfigError[] {
    const before = this.#taken.get(value);
    this.#taken.set(value, before ?? place);
    if (before === undefined) return [];
    const words = `expected ${this.#what} of its own, got ${shown}, which is ${before.field}'s (line ${before.line})`;
    return [new ConfigError(place, words)];
  }
}
