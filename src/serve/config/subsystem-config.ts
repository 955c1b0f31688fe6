/** NVM subsystems of a configuration, whose functions its VMs have. */
import { NAMESPACES_MAX } from '../../devices/nvme/nvme-options.ts';
import { VIRTUAL_FUNCTIONS_MAX } from '../../devices/nvme/subsystem-place.ts';
import type { CheckedNode } from './checked-node.ts';
import { parseName } from './config-name.ts';
import type { ConfigPlace, Placed } from './config-place.ts';
import { DISK_FIELDS, type DiskConfig, diskOf, diskOfFields } from './disk-config.ts';

export interface SubsystemConfig {
  readonly place: ConfigPlace;
  /** How commands call it, and its serial number: a-z, 0-9 and -, beginning with a letter, at most 20. */
  readonly name: string;
  /** Beside the physical one. */
  readonly virtualFunctions: number;
  /** By NSID, from 1. */
  readonly namespaces: readonly NamespaceConfig[];
}

export interface NamespaceConfig extends DiskConfig {
  /** The one that it belongs to; nobody's where there is none. */
  readonly function: Placed<number> | undefined;
}

/** A function of a subsystem, as a VM's configuration names it. */
export interface SubsystemFunctionConfig {
  readonly subsystem: Placed<string>;
  readonly number: Placed<number>;
}

const SUBSYSTEMS_MAX = 256;
/** As a serial number has, which it is. */
const NAME_MAX = 20;

export function subsystemsOf(node: CheckedNode, directory: string): SubsystemConfig[] {
  const found = node.items(SUBSYSTEMS_MAX)?.map((one) => subsystemOf(one, directory)) ?? [];
  return found.filter((one) => one !== undefined);
}

function subsystemOf(node: CheckedNode, directory: string): SubsystemConfig | undefined {
  const fields = node.fields(['name', 'virtual-functions', 'namespaces']);
  if (fields === undefined) return undefined;
  if (fields.name === undefined) node.wrong('expected a name, got none');
  const functions = fields['virtual-functions'];
  if (functions === undefined) {
    node.wrong('expected a number of functions in virtual-functions, got none');
  }
  const name = fields.name?.read('a name', parseSubsystemName);
  const virtualFunctions = functions?.integer(
    'a number of virtual functions',
    0,
    VIRTUAL_FUNCTIONS_MAX,
  );
  const namespaces = fields.namespaces
    ?.items(NAMESPACES_MAX)
    ?.map((one) => namespaceOf(one, directory));
  if (fields.namespaces === undefined || namespaces?.length === 0) {
    (fields.namespaces ?? node).wrong('expected one namespace or more, got none');
  }
  if (name === undefined || virtualFunctions === undefined) return undefined;
  const found = (namespaces ?? []).filter((one) => one !== undefined);
  return { place: node.place, name, virtualFunctions, namespaces: found };
}

/** A file name, or `{ file: NAME, read-only: true, function: 1 }`. */
function namespaceOf(node: CheckedNode, directory: string): NamespaceConfig | undefined {
  if (!node.isFields) {
    const disk = diskOf(node, directory);
    return disk && { ...disk, function: undefined };
  }
  const fields = node.fields([...DISK_FIELDS, 'function']);
  if (fields === undefined) return undefined;
  const disk = diskOfFields(node, fields, directory);
  const number = numberOf(fields.function);
  return disk && { ...disk, function: number };
}

/** @returns undefined where what is there is wrong, which is noted */
export function subsystemFunctionOf(
  node: CheckedNode,
  subsystem: CheckedNode | undefined,
  number: CheckedNode | undefined,
): SubsystemFunctionConfig | undefined {
  if (subsystem === undefined) {
    return node.wrong('expected the subsystem that the function is of, got none');
  }
  if (number === undefined) {
    return node.wrong('expected the number of a function of the subsystem in function, got none');
  }
  const name = subsystem.read("a subsystem's name", parseSubsystemName);
  const placed = numberOf(number);
  if (name === undefined || placed === undefined) return undefined;
  return { subsystem: { place: subsystem.place, value: name }, number: placed };
}

function numberOf(node: CheckedNode | undefined): Placed<number> | undefined {
  const value = node?.integer('the number of a function', 0, VIRTUAL_FUNCTIONS_MAX);
  return node === undefined || value === undefined ? undefined : { place: node.place, value };
}

function parseSubsystemName(text: string): string {
  return parseName(text, NAME_MAX);
}
