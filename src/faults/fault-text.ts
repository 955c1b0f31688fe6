import { parseRequesterId } from '../pci/requester-id.ts';
import { type ArmOptions, type FaultName, faultNamed, parametersOf } from './catalogue.ts';
import { checkTrigger, TRIGGERS, type TriggerOptions } from './trigger.ts';

/** A fault as a command line says it, ready to be armed. */
export interface FaultChoice {
  readonly name: FaultName;
  readonly options: ArmOptions<FaultName>;
}

/**
 * Reads `NAME:key=value,…`, such as `interrupt.lose:nth=3` or `dma.refuse:rate=0.01,rid=00:05.0`. Without a
 * trigger it strikes once, at the first occasion.
 *
 * @throws RangeError, TypeError, SyntaxError that names what is wrong
 */
export function parseFault(text: string): FaultChoice {
  const colon = text.indexOf(':');
  const name = colon < 0 ? text : text.slice(0, colon);
  const { parameters } = faultNamed(name);
  const trigger: Record<string, number> = {};
  const own: Record<string, unknown> = {};
  const where: { rid?: ReturnType<typeof parseRequesterId> } = {};
  for (const [key, value] of pairs(name, colon < 0 ? '' : text.slice(colon + 1))) {
    const parameter = Object.hasOwn(parameters, key) ? parameters[key] : undefined;
    if (key === 'rid') where.rid = parseRequesterId(value);
    else if (key === 'times' || Object.hasOwn(TRIGGERS, key)) trigger[key] = numberOf(key, value);
    else own[key] = parameter === undefined ? value : parameter.fromText(value);
  }
  const when = Object.keys(TRIGGERS).some((key) => key in trigger)
    ? trigger
    : { nth: 1, ...trigger };
  checkTrigger(when as TriggerOptions<never>);
  const options = { ...when, ...where, ...parametersOf(name, own) };
  return { name: name as FaultName, options: withoutGaps(options) as ArmOptions<FaultName> };
}

function* pairs(name: string, text: string): Generator<readonly [string, string]> {
  const seen = new Set<string>();
  for (const pair of text === '' ? [] : text.split(',')) {
    const [, key = '', value = ''] = /^([a-z]+)=(.+)$/.exec(pair) ?? [];
    if (key === '') {
      throw new SyntaxError(`expected ${name}:key=value,…, got ${JSON.stringify(pair)}`);
    }
    if (seen.has(key)) throw new SyntaxError(`expected one '${key}' for ${name}, got two`);
    seen.add(key);
    yield [key, value];
  }
}

function numberOf(key: string, text: string): number {
  const value = Number(text);
  if (Number.isNaN(value)) throw new RangeError(`expected a number for '${key}', got '${text}'`);
  return value;
}

function withoutGaps(options: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}

/** Reads a seed, decimal or 0x…. @throws RangeError where it has not 32 bits */
export function parseSeed(text: string): number {
  const value = /^(0x[0-9a-f]{1,8}|[0-9]{1,10})$/i.test(text) ? Number(text) : Number.NaN;
  if (!(value < 2 ** 32)) throw new RangeError(`expected a seed of 32 bits, got '${text}'`);
  return value;
}

/** As {@link parseSeed} reads it. */
export function formatSeed(seed: number): string {
  return `0x${seed.toString(16).padStart(8, '0')}`;
}
