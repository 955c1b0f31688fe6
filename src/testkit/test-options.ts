/** What a driver test says of its device, its driver and its guest. */
import { IOMMU_ADDRESS } from '../machine/machine.ts';
import type { PciEndpoint } from '../pci/endpoint.ts';
import { formatRequesterId, parseRequesterId, type RequesterId } from '../pci/requester-id.ts';
import type { Accelerator } from '../vm/qemu-command.ts';

/** Makes the device of one test; called anew for each. */
export type DeviceFactory<Device extends PciEndpoint = PciEndpoint> = () => Device;

export interface PlacedDevice {
  readonly make: DeviceFactory;
  /** On bus 0, such as `00:05.0`; where not given, the next free place from 00:04.0 on. */
  readonly at?: string;
}

export interface ModuleSource {
  /** A C file, or a folder with a Kbuild; relative to the test's file. */
  readonly source: string;
  /** False: it is put into the guest, and the test loads it. Default: it is loaded before the test. */
  readonly load?: boolean;
  readonly parameters?: ModuleParameters;
}

export type ModuleParameters = Readonly<Record<string, string | number>>;

/** A file's content, or content and permissions (0644 where not given). */
export type GuestFile =
  | string
  | Uint8Array
  | { readonly content: string | Uint8Array; readonly mode: number };

export interface DriverTestOptions<Device extends PciEndpoint = PciEndpoint> {
  /** The device under test, at 00:04.0. */
  readonly device?: DeviceFactory<Device>;
  /** More of them, or all of them with their places; `device` of a test is the first. */
  readonly devices?: readonly (DeviceFactory | PlacedDevice)[];
  /** Kernel modules that are built from source and loaded in this order. */
  readonly module?: string | ModuleSource | readonly (string | ModuleSource)[];
  /** C files of programs for the guest, relative to the test's file: built static, put into /bin. */
  readonly programs?: readonly string[];
  /** Modules that come with the kernel, by their place in its source: `drivers/uio/uio`. Loaded first. */
  readonly kernelModules?: readonly string[];
  /** Absolute path in the guest to content. */
  readonly files?: Readonly<Record<string, GuestFile>>;
  /** Default: sealed, and plain with a warning where this host cannot seal. */
  readonly memory?: 'sealed' | 'plain';
  /** Of guest memory, in whole MiB. Default: 256 MiB. */
  readonly bytes?: number;
  /** Default: 2. */
  readonly cpus?: number;
  /** `virtio`: the guest's virtio-iommu driver maps what devices may reach. Default: `identity`. */
  readonly iommu?: 'identity' | 'virtio';
  /** Added to those that sealbus gives. */
  readonly kernelArguments?: readonly string[];
  readonly accelerator?: Accelerator | 'auto';
  /**
   * How a guest comes to be: `saved` (default) goes on from a guest that has booted without the
   * devices and finds them by a scan of the bus; `boot` boots with them. On KVM every guest boots.
   */
  readonly start?: 'saved' | 'boot';
  /** Of the faults; SEALBUS_SEED in the environment goes before it. Default: a random one. */
  readonly seed?: number | bigint;
  /** How many bytes of each DMA the trace holds, in the clear. Default: 0. */
  readonly traceDataBytes?: number;
  /** Of one command in the guest. Default: 30 s. */
  readonly commandTimeoutMs?: number;
  /** Until the guest is there. Default: 90 s. */
  readonly bootTimeoutMs?: number;
}

export const commandTimeoutDefaultMs = 30_000;
export const bootTimeoutDefaultMs = 90_000;
export const memoryBytesDefault = 256 * 2 ** 20;

export interface DevicePlace {
  readonly make: DeviceFactory;
  readonly rid: RequesterId;
}

/** Each device with its place. @throws Error where a place is taken, or is none */
export function devicePlaces(options: DriverTestOptions): DevicePlace[] {
  const { device, devices = [] } = options;
  const wanted: PlacedDevice[] = [
    ...(device === undefined ? [] : [{ make: device }]),
    ...devices.map((one) => (typeof one === 'function' ? { make: one } : one)),
  ];
  const taken = new Set<RequesterId>([IOMMU_ADDRESS]);
  const given = wanted.map(({ at }) => (at === undefined ? undefined : parseRequesterId(at)));
  for (const rid of given) {
    if (rid === undefined) continue;
    if (taken.has(rid)) {
      throw new Error(`expected a free place for each device, got ${formatRequesterId(rid)} twice`);
    }
    taken.add(rid);
  }
  return wanted.map(({ make }, index) => {
    const rid = given[index] ?? nextFree(taken);
    taken.add(rid);
    return { make, rid };
  });
}

/** Devices 4 to 1c of bus 0; those below and above are sealbus's own. */
function nextFree(taken: ReadonlySet<RequesterId>): RequesterId {
  for (let number = 4; number <= 0x1c; number++) {
    const rid = parseRequesterId(`00:${number.toString(16).padStart(2, '0')}.0`);
    if (!taken.has(rid)) return rid;
  }
  throw new Error('expected at most 25 devices without a place of their own');
}

/** The modules to build, in order. */
export function moduleSources(options: DriverTestOptions): ModuleSource[] {
  const { module = [] } = options;
  const list = Array.isArray(module) ? module : [module];
  return list.map((one: string | ModuleSource) =>
    typeof one === 'string' ? { source: one } : one,
  );
}

const names: readonly (keyof DriverTestOptions)[] = [
  ...(['device', 'devices', 'module', 'programs', 'kernelModules', 'files'] as const),
  ...(['memory', 'bytes', 'cpus', 'iommu', 'kernelArguments', 'accelerator', 'start'] as const),
  ...(['seed', 'traceDataBytes', 'commandTimeoutMs', 'bootTimeoutMs'] as const),
];

/** @throws TypeError where something is no option, or not of its kind */
export function checkOptions(options: DriverTestOptions): void {
  for (const name of Object.keys(options)) {
    if (!(names as readonly string[]).includes(name)) {
      throw new TypeError(`expected options of a driver test (${names.join(', ')}), got ${name}`);
    }
  }
  const { device, devices = [] } = options;
  if (device !== undefined && (typeof device !== 'function' || isClass(device))) {
    throw new TypeError('expected a function that makes the device: device: () => new Adder()');
  }
  for (const one of devices) {
    if (typeof one !== 'function' && typeof one?.make !== 'function') {
      throw new TypeError('expected functions that make devices, or { make, at }, in devices');
    }
  }
  for (const path of Object.keys(options.files ?? {})) {
    if (!path.startsWith('/')) {
      throw new TypeError(`expected absolute paths of the guest in files, got ${path}`);
    }
  }
}

function isClass(value: (...args: never[]) => unknown): boolean {
  return /^class\b/.test(Function.prototype.toString.call(value));
}
