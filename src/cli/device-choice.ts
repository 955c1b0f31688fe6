import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { InvalidArgumentError } from 'commander';
import { Edu } from '../devices/edu/edu.ts';
import { PciFunction } from '../pci/function.ts';
import { parseRequesterId, type RequesterId } from '../pci/requester-id.ts';

/** Where functions go that name no place: from here upwards on bus 0. */
const FIRST_DEVICE = 4;
/** From here on bus 0 belongs to the guest's agent and to the chipset. */
const LAST_DEVICE = 0x1c;

/** What stands behind `--device`: `edu`, or a module of one's own with a class to be made. */
export interface DeviceChoice {
  readonly source: string;
  readonly exportName: string | undefined;
  readonly rid: RequesterId | undefined;
}

/** `edu`, `my-device.ts`, `my-device.ts#MyDevice`, each with `@00:05.0`. @throws InvalidArgumentError */
export function parseDevice(text: string, before: readonly DeviceChoice[] = []): DeviceChoice[] {
  const [, source = '', exportName, place] =
    /^(?!@)([^#]+?)(?:#([\w$]+))?(?:@([^@#/]+))?$/.exec(text) ?? [];
  if (source === '') {
    throw new InvalidArgumentError('expected NAME or FILE[#EXPORT], then @BUS:DEVICE.FUNCTION');
  }
  try {
    const rid = place === undefined ? undefined : parseRequesterId(place);
    return [...before, { source, exportName, rid }];
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
  }
}

/**
 * Makes the functions and gives a place to those without one.
 * @throws Error where a module has no such class, or the class fails
 */
export async function makeDevices(
  choices: readonly DeviceChoice[],
): Promise<{ readonly rid: RequesterId; readonly endpoint: PciFunction }[]> {
  const taken = new Set(choices.map(({ rid }) => rid));
  let next = FIRST_DEVICE;
  const place = () => {
    while (taken.has((next << 3) as RequesterId)) next++;
    if (next > LAST_DEVICE) {
      throw new Error(
        `expected devices that fit on bus 0, got ${choices.length}: give some a function of a ` +
          'device that others have, such as @00:04.1',
      );
    }
    return (next++ << 3) as RequesterId;
  };
  const made = [];
  for (const choice of choices) {
    const endpoint = new (await deviceClass(choice))();
    made.push({ rid: choice.rid ?? place(), endpoint });
  }
  return made;
}

type FunctionClass = new () => PciFunction;

/** @throws Error where a module has no such class */
export async function deviceClass({ source, exportName }: DeviceChoice): Promise<FunctionClass> {
  if (source === 'edu') return Edu;
  const path = resolve(source);
  if (!existsSync(path)) {
    throw new Error(`expected a device, 'edu' or a TypeScript file, got ${source}: no such file`);
  }
  const exports = (await import(pathToFileURL(path).href)) as Record<string, unknown>;
  const named = Object.entries(exports).filter(([, value]) => isFunctionClass(value));
  const wanted = exportName ?? (named.length === 1 ? named[0]?.[0] : 'default');
  const found = wanted === undefined ? undefined : exports[wanted];
  if (!isFunctionClass(found)) {
    const there = named.map(([name]) => name).join(', ') || 'none';
    throw new Error(
      `expected ${source} to export ${wanted ?? 'a class'} that extends PciFunction, ` +
        `got: ${there}. Name one as ${source}#NAME`,
    );
  }
  return found;
}

function isFunctionClass(value: unknown): value is FunctionClass {
  return typeof value === 'function' && value.prototype instanceof PciFunction;
}
