import { Claims } from './claims.ts';
import { ConfigError, type ConfigPlace } from './config-place.ts';
import type { DiskConfig } from './disk-config.ts';
import type { ServeConfig } from './serve-config.ts';
import type { SubsystemConfig, SubsystemFunctionConfig } from './subsystem-config.ts';

/** A subsystem as far as those who name it have to know it. */
export type KnownSubsystem = Pick<SubsystemConfig, 'name' | 'virtualFunctions'>;

/**
 * What is well formed in each subsystem and each VM, and cannot be had of all.
 * @param there subsystems that there are beside those of the configuration
 */
export function findSubsystemConflicts(
  { subsystems, vms }: ServeConfig,
  there: readonly KnownSubsystem[],
): ConfigError[] {
  const names = new Claims<string>('a name');
  const known = new Map([...there, ...subsystems].map((one) => [one.name, one]));
  const functions = new Claims<string>('a function');
  const devices = vms.flatMap((vm) => vm.functions.map(({ device }) => device));
  return [
    ...subsystems.flatMap((one) => [
      ...names.claim({ value: one.name, place: one.place }),
      ...namesThere(one, there),
      ...namespaceConflicts(one),
    ]),
    ...devices.flatMap((device) => {
      if (device.kind !== 'subsystem-function') return [];
      const errors = functionConflicts(device, known);
      if (errors.length > 0) return errors;
      const name = functionName(device);
      return functions.claim({ value: name, place: device.number.place }, name);
    }),
    ...fileConflicts([
      ...subsystems.flatMap(({ namespaces }) => namespaces),
      ...devices.flatMap((device) => (device.kind === 'nvme' ? device.disks : [])),
    ]),
  ];
}

/** Such as `function 1 of pool`. */
function functionName({ subsystem, number }: SubsystemFunctionConfig): string {
  return `function ${number.value} of ${subsystem.value}`;
}

function namesThere({ name, place }: SubsystemConfig, there: readonly KnownSubsystem[]) {
  if (!there.some((one) => one.name === name)) return [];
  return [
    new ConfigError(place, `expected a new name, got ${name}, which is a subsystem's already`),
  ];
}

function namespaceConflicts(subsystem: SubsystemConfig): ConfigError[] {
  return subsystem.namespaces.flatMap(({ function: owner }) =>
    owner === undefined ? [] : outOfRange(owner, subsystem),
  );
}

function functionConflicts(
  { subsystem, number }: SubsystemFunctionConfig,
  known: ReadonlyMap<string, KnownSubsystem>,
): ConfigError[] {
  const found = known.get(subsystem.value);
  if (found !== undefined) return outOfRange(number, found);
  const names = [...known.keys()].join(', ') || 'none';
  const words = `expected the name of a subsystem (${names}), got ${subsystem.value}`;
  return [new ConfigError(subsystem.place, words)];
}

function outOfRange(
  { value, place }: { readonly value: number; readonly place: ConfigPlace },
  { name, virtualFunctions }: KnownSubsystem,
): ConfigError[] {
  if (value <= virtualFunctions) return [];
  const words = `expected a function of ${name}, 0 to ${virtualFunctions}, got ${value}`;
  return [new ConfigError(place, words)];
}

/** A file that is written has one user, as its lock would say; those that are only read may have several. */
function fileConflicts(disks: readonly DiskConfig[]): ConfigError[] {
  const written = new Set(disks.filter(({ readOnly }) => !readOnly).map(({ file }) => file));
  const files = new Claims<string>('a file');
  return disks.flatMap(({ file, place }) =>
    written.has(file) ? files.claim({ value: file, place }) : [],
  );
}
