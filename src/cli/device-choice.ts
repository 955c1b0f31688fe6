import { InvalidArgumentError } from 'commander';
import { Edu } from '../devices/edu/edu.ts';
import { type FunctionClass, functionClassOf } from '../devices/function-module.ts';
import type { PciFunction } from '../pci/function.ts';
import { parseRequesterId, type RequesterId } from '../pci/requester-id.ts';
import { asArgument } from './as-argument.ts';

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
  const rid = place === undefined ? undefined : asArgument(parseRequesterId, place);
  return [...before, { source, exportName, rid }];
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

/** @throws Error where a module has no such class */
export async function deviceClass({ source, exportName }: DeviceChoice): Promise<FunctionClass> {
  return source === 'edu' ? Edu : await functionClassOf(source, exportName);
}
