/** Reads what `sealbus serve` is told (serve-config.ts). */
import { checkSocketPath } from '../../ffi/unix-socket.ts';
import { KEY_SLOTS, keySlot } from '../../keys/key-slot.ts';
import { parseGuestMemory } from '../../machine/memory-size.ts';
import { parseRequesterId, type RequesterId } from '../../pci/requester-id.ts';
import { portPlaces, ROOT_PORTS_MAX } from '../../vm/root-ports.ts';
import { CheckedNode } from './checked-node.ts';
import { findConflicts } from './config-conflicts.ts';
import { parseName } from './config-name.ts';
import { ConfigErrors, type ConfigPlace, type Placed } from './config-place.ts';
import { diskOf, inDirectory } from './disk-config.ts';
import type {
  DeviceConfig,
  FunctionConfig,
  KeyConfig,
  ServeConfig,
  VmConfig,
} from './serve-config.ts';
import { subsystemFunctionOf, subsystemsOf } from './subsystem-config.ts';
import { findSubsystemConflicts, type KnownSubsystem } from './subsystem-conflicts.ts';

const NAME_MAX = 32;
const VMS_MAX = KEY_SLOTS - 1;
/** Bus 0 has no more places. */
const FUNCTIONS_MAX = 256;
const DISKS_MAX = 64;
const DESCRIPTOR_MAX = 1023;
const MEMORY_DEFAULT = 512 * 2 ** 20;

/**
 * Reads a configuration: YAML 1.2, of which JSON is a part.
 * @param file as errors name it
 * @param directory what file names in it are relative to
 * @param there subsystems that there are beside its own
 * @throws ConfigErrors with all that is wrong, each with its line and field
 */
export function parseServeConfig(
  text: string,
  file: string,
  directory: string,
  there: readonly KnownSubsystem[] = [],
): ServeConfig {
  const { root, errors } = CheckedNode.of(text, file);
  const config = errors.length > 0 ? undefined : configOf(root, directory);
  if (errors.length === 0 && config !== undefined) {
    errors.push(...findConflicts(config.vms), ...findSubsystemConflicts(config, there));
  }
  if (errors.length > 0 || config === undefined) throw new ConfigErrors(errors);
  return config;
}

function configOf(root: CheckedNode, directory: string): ServeConfig | undefined {
  const fields = root.fields(['subsystems', 'vms']);
  if (fields === undefined) return undefined;
  const subsystems =
    fields.subsystems === undefined ? [] : subsystemsOf(fields.subsystems, directory);
  if (fields.vms === undefined) return root.wrong('expected a list of VMs in vms, got none');
  const vms = fields.vms.items(VMS_MAX)?.map((node) => vmOf(node, directory)) ?? [];
  if (vms.length === 0) fields.vms.wrong('expected one VM or more, got none');
  return { subsystems, vms: vms.filter((vm) => vm !== undefined) };
}

function vmOf(node: CheckedNode, directory: string): VmConfig | undefined {
  const fields = node.fields([
    ...(['name', 'size', 'memory', 'key', 'slot', 'iommu', 'root-ports'] as const),
    ...(['cpus', 'boot', 'functions'] as const),
  ]);
  if (fields === undefined) return undefined;
  if (fields.name === undefined) node.wrong('expected a name, got none');
  const name = fields.name?.read('a name', (text) => parseName(text, NAME_MAX));
  const boot = placed(fields.boot, (value) =>
    value.text('kernel, or the address of a function with disks') === 'kernel'
      ? undefined
      : value.read('an address', parseAddress),
  );
  const functions = fields.functions
    ?.items(FUNCTIONS_MAX)
    ?.map((one) => functionOf(one, directory));
  return {
    place: node.place,
    name: name ?? '',
    bytes: fields.size?.read('a size', parseGuestMemory) ?? MEMORY_DEFAULT,
    memory: fields.memory?.choice(['sealed', 'plain']) ?? 'sealed',
    key: keyOf(fields.key, node.place),
    slot: placed(fields.slot, (value) => {
      const index = value.integer('a key slot', 0, KEY_SLOTS - 1);
      return index === undefined ? undefined : keySlot(index);
    }),
    iommu: fields.iommu?.choice(['identity', 'virtio']) ?? 'identity',
    rootPorts: fields['root-ports']?.integer('root ports', 0, ROOT_PORTS_MAX) ?? 0,
    cpus: fields.cpus?.integer('virtual CPUs', 1, 64) ?? 2,
    boot,
    functions: (functions ?? []).filter((one) => one !== undefined),
  };
}

/** `generate`, or `{ descriptor: 5 }`, either with `bits`. */
function keyOf(node: CheckedNode | undefined, vm: ConfigPlace): KeyConfig {
  if (node === undefined) return { place: vm, bits: 256, descriptor: undefined };
  const { place } = node;
  if (!node.isFields) {
    node.choice(['generate']);
    return { place, bits: 256, descriptor: undefined };
  }
  const fields = node.fields(['descriptor', 'bits']);
  const bits = fields?.bits?.integer('bits of a key', 128, 256);
  if (bits !== undefined && bits !== 128 && bits !== 256) {
    fields?.bits?.wrong(`expected 128 or 256 bits, got ${bits}`);
  }
  return {
    place,
    bits: bits === 128 ? 128 : 256,
    descriptor: fields?.descriptor?.integer('a descriptor', 3, DESCRIPTOR_MAX),
  };
}

function functionOf(node: CheckedNode, directory: string): FunctionConfig | undefined {
  const fields = node.fields([
    ...(['device', 'at', 'disks', 'subsystem', 'function', 'socket', 'slot-from'] as const),
  ]);
  if (fields === undefined) return undefined;
  if (fields.device === undefined) node.wrong('expected a device, got none');
  if (fields.at === undefined) node.wrong('expected a place in at, such as 00:05.0, got none');
  const device = fields.device?.read('edu, nvme or FILE.ts#CLASS', (text) => text);
  const at = placed(fields.at, (value) => value.read('an address', parseAddress));
  if (device === undefined || fields.device === undefined || at === undefined) return undefined;
  const socket = placed(fields.socket, (value) =>
    value.read('a socket path', (text) => {
      const path = inDirectory(directory, text);
      checkSocketPath(path);
      return path;
    }),
  );
  const slotFrom = placed(fields['slot-from'], (value) =>
    value.choice(['device-table', 'translation'] as const),
  );
  const found = deviceOf(device, node, fields, directory);
  return found && { place: node.place, device: found, at, socket, slotFrom };
}

type DeviceFields = Partial<Record<'device' | 'disks' | 'subsystem' | 'function', CheckedNode>>;

function deviceOf(
  device: string,
  node: CheckedNode,
  fields: DeviceFields,
  directory: string,
): DeviceConfig | undefined {
  if (device === 'nvme') return nvmeOf(node, fields, directory);
  for (const name of ['disks', 'subsystem', 'function'] as const) {
    fields[name]?.wrong(`expected ${name} of an nvme alone, got ${name} of ${device}`);
  }
  if (device === 'edu') return { kind: 'edu' };
  const { place } = fields.device ?? node;
  const [, file = device, exportName] = /^([^#]+)#([\w$]+)$/.exec(device) ?? [];
  if (!/\.[cm]?[jt]s$/.test(file)) {
    fields.device?.wrong(`expected edu, nvme or FILE.ts#CLASS, got ${JSON.stringify(device)}`);
  }
  return { kind: 'module', place, file: inDirectory(directory, file), exportName };
}

/** One with disks of its own, or a function of a subsystem. */
function nvmeOf(
  node: CheckedNode,
  { disks, subsystem, function: number }: DeviceFields,
  directory: string,
): DeviceConfig | undefined {
  if (subsystem !== undefined || number !== undefined) {
    disks?.wrong('expected disks, or a function of a subsystem, got both');
    const of = subsystemFunctionOf(node, subsystem, number);
    return of && { kind: 'subsystem-function', ...of };
  }
  if (disks === undefined) {
    return node.wrong('expected disks of the nvme, or its subsystem and function, got none');
  }
  const found = disks.items(DISKS_MAX)?.map((disk) => diskOf(disk, directory)) ?? [];
  return { kind: 'nvme', disks: found.filter((disk) => disk !== undefined) };
}

function placed<T>(
  node: CheckedNode | undefined,
  read: (node: CheckedNode) => T | undefined,
): Placed<T> | undefined {
  if (node === undefined) return undefined;
  const value = read(node);
  return value === undefined ? undefined : { place: node.place, value };
}

function parseAddress(text: string): RequesterId {
  const address = parseRequesterId(text);
  if (address <= 0xff || portPlaces(ROOT_PORTS_MAX).includes(address)) return address;
  throw new RangeError(
    `expected a place on bus 0, such as 00:05.0, or behind a root port, such as 01:00.0, got ${text}`,
  );
}
