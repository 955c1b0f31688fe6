/** Where in a configuration something stands, as its errors name it. */
export interface ConfigPlace {
  /** The file's name, as it was given. */
  readonly file: string;
  /** Counts from 1. */
  readonly line: number;
  /** Such as `vms[0].functions[1].at`; empty for the whole. */
  readonly field: string;
}

/** With where it stands, for errors. */
export interface Placed<T> {
  readonly place: ConfigPlace;
  readonly value: T;
}

/** One thing that is wrong with a configuration, or that could not be had as it says. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
  readonly place: ConfigPlace;

  constructor(place: ConfigPlace, words: string, options?: ErrorOptions) {
    const { file, line, field } = place;
    super(`${file}:${line}: ${field === '' ? '' : `${field}: `}${words}`, options);
    this.place = place;
  }
}

/** Whoever sent nothing but mistakes must not have us say so many back. */
export const CONFIG_ERRORS_MAX = 100;

/** All that is wrong with a configuration, a line each, as far as that is not more than {@link CONFIG_ERRORS_MAX}. */
export class ConfigErrors extends Error {
  override readonly name = 'ConfigErrors';
  readonly errors: readonly ConfigError[];

  constructor(errors: readonly ConfigError[]) {
    const told = errors.slice(0, CONFIG_ERRORS_MAX);
    const more = errors.length > told.length ? ['and more: mend these first'] : [];
    super([...told.map(({ message }) => message), ...more].join('\n'));
    this.errors = told;
  }
}

/** What `work` does; where it fails, an error that names the place. @throws ConfigError */
export async function atPlace<T>(place: ConfigPlace, work: () => T | Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    const words = error instanceof Error ? error.message : String(error);
    throw new ConfigError(place, words, { cause: error });
  }
}
