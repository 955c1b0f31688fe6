/**
 * What a fault takes beside its trigger: each parameter says what it means, checks what it gets, and
 * reads itself from the text of a command line.
 */
export interface Parameter<T, Required extends boolean = boolean> {
  /** A phrase: what it is, in which unit, and its default. */
  readonly says: string;
  readonly required: Required;
  /** Where nothing is given. */
  readonly fallback: T | undefined;
  /** What it accepts, for errors. */
  readonly expects: string;
  accepts(value: unknown): value is T;
  /** The value that a text stands for; what it is not is found by {@link accepts}. */
  fromText(text: string): unknown;
}

export type ParameterSet = Readonly<Record<string, Parameter<unknown>>>;

type ValueOf<P> = P extends Parameter<infer T> ? T : never;
type RequiredNames<P extends ParameterSet> = {
  [N in keyof P]: P[N]['required'] extends true ? N : never;
}[keyof P];

/** What `arm` takes for them. */
export type ParameterOptions<P extends ParameterSet> = {
  readonly [N in RequiredNames<P>]: ValueOf<P[N]>;
} & { readonly [N in Exclude<keyof P, RequiredNames<P>>]?: ValueOf<P[N]> };

/** What a fault works by: defaults are filled in. */
export type ParameterValues<P extends ParameterSet> = {
  readonly [N in keyof P]: P[N]['fallback'] extends undefined
    ? P[N]['required'] extends true
      ? ValueOf<P[N]>
      : ValueOf<P[N]> | undefined
    : ValueOf<P[N]>;
};

/** Longest delay that a fault makes. */
const MILLISECONDS_MAX = 60_000;

/** A parameter that may be left out, and has a value then. */
export type WithDefault<T> = Parameter<T, false> & { readonly fallback: T };
/** A parameter that may be left out. */
export type Optional<T> = Parameter<T, false> & { readonly fallback: undefined };
export type Required<T> = Parameter<T, true> & { readonly fallback: undefined };

export function milliseconds(says: string, fallback: number): WithDefault<number> {
  return {
    says: `${says}, in milliseconds; default ${fallback}`,
    required: false,
    fallback,
    expects: `milliseconds from 0 to ${MILLISECONDS_MAX}`,
    accepts: (value): value is number =>
      typeof value === 'number' && value >= 0 && value <= MILLISECONDS_MAX,
    fromText: Number,
  };
}

export function count(says: string, fallback: number, max: number): WithDefault<number> {
  return {
    ...wholeNumber(`${says}; default ${fallback}`, 1, max),
    required: false,
    fallback,
  };
}

/** A whole number that may be left out. */
export function optionalNumber(says: string, min: number, max: number): Optional<number> {
  return { ...wholeNumber(says, min, max), required: false, fallback: undefined };
}

export function requiredNumber(says: string, min: number, max: number): Required<number> {
  return { ...wholeNumber(says, min, max), required: true, fallback: undefined };
}

/** Up to 64 bits; a number where it is exact, or a bigint. */
export function optionalBits(says: string): Optional<number | bigint> {
  return {
    says,
    required: false,
    fallback: undefined,
    expects: 'a number or bigint of up to 64 bits',
    accepts: (value): value is number | bigint =>
      (typeof value === 'bigint' && BigInt.asUintN(64, value) === value) ||
      (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0),
    fromText: (text) => (/^(0x[0-9a-f]{1,16}|[0-9]{1,20})$/i.test(text) ? BigInt(text) : text),
  };
}

export function oneOf<const T extends string>(
  says: string,
  values: readonly T[],
  fallback: T,
): WithDefault<T> {
  return {
    ...choice(`${says}: ${values.join(', ')}; default ${fallback}`, values),
    required: false,
    fallback,
  };
}

export function optionalOneOf<const T extends string>(
  says: string,
  values: readonly T[],
): Optional<T> {
  return {
    ...choice(`${says}: ${values.join(', ')}`, values),
    required: false,
    fallback: undefined,
  };
}

export function optionalText(says: string): Optional<string> {
  return {
    says,
    required: false,
    fallback: undefined,
    expects: 'a text',
    accepts: (value): value is string => typeof value === 'string' && value !== '',
    fromText: (text) => text,
  };
}

/**
 * The values of a fault's parameters out of what was given.
 * @throws TypeError where one is missing or unknown; RangeError where one is not what it should be
 */
export function readParameters(
  fault: string,
  parameters: ParameterSet,
  given: Readonly<Record<string, unknown>>,
): Record<string, unknown> {
  const names = Object.keys(parameters);
  for (const name of Object.keys(given)) {
    if (!names.includes(name)) {
      throw new TypeError(
        `${fault} takes no '${name}': expected ${names.join(', ') || 'none'} beside its trigger`,
      );
    }
  }
  const values: Record<string, unknown> = {};
  for (const [name, parameter] of Object.entries(parameters)) {
    const value = given[name] ?? parameter.fallback;
    if (value === undefined) {
      if (parameter.required) throw new TypeError(`${fault} needs '${name}': ${parameter.says}`);
    } else if (!parameter.accepts(value)) {
      throw new RangeError(
        `expected ${parameter.expects} for '${name}' of ${fault}, got ${String(value)}`,
      );
    }
    values[name] = value;
  }
  return values;
}

function wholeNumber(says: string, min: number, max: number) {
  return {
    says,
    expects: `a whole number from ${min} to ${max}`,
    accepts: (value: unknown): value is number =>
      typeof value === 'number' && Number.isSafeInteger(value) && value >= min && value <= max,
    fromText: (text: string) => (/^(0x[0-9a-f]+|[0-9]+)$/i.test(text) ? Number(text) : text),
  };
}

function choice<T extends string>(says: string, values: readonly T[]) {
  return {
    says,
    expects: `one of ${values.join(', ')}`,
    accepts: (value: unknown): value is T => values.some((one) => one === value),
    fromText: (text: string) => text,
  };
}
