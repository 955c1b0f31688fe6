/** QEMU's command line from a typed description. Nothing here starts anything. */
import { formatRequesterId, parseRequesterId, type RequesterId } from '../pci/requester-id.ts';
import type { OvmfPart, QemuPart } from '../setup/parts.ts';
import {
  checkPlace,
  checkRootPorts,
  functionId,
  portId,
  portOf,
  rootPortDevices,
} from './root-ports.ts';
import { credentialArguments, type SystemdCredential } from './systemd-credentials.ts';
import { VmError } from './vm-error.ts';

export type Accelerator = 'kvm' | 'tcg';

export interface VirtualMachineDescription {
  readonly machine: 'q35' | 'pc';
  readonly accelerator: Accelerator;
  /** Virtual CPUs, 1 to 64. */
  readonly cpus: number;
  readonly memory: GuestRam;
  readonly boot: DirectBoot | FirmwareBoot;
  readonly devices: readonly GuestDevice[];
  /** Of a q35; a function behind one has the place 00.0 of its bus. None where not given. */
  readonly rootPorts?: number;
  /** Files of whole ACPI tables, header included. */
  readonly acpiTables?: readonly string[];
  /** ttyS0. */
  readonly console: Channel;
  /** The virtio-serial port of the agent. */
  readonly agent?: Channel;
  readonly qmp?: Channel;
  /** A virtio-rng function, for guests that wait for entropy. */
  readonly entropy?: boolean;
  /** Waits for a saved state of such a machine, in place of booting. */
  readonly incoming?: boolean;
}

/** QEMU loads the kernel itself. */
export interface DirectBoot {
  readonly kind: 'kernel';
  /** An ELF vmlinux with a PVH entry, or a bzImage. */
  readonly image: string;
  readonly initrd?: string;
  /** In order; none may hold white space. */
  readonly arguments: readonly string[];
}

/** The machine's firmware starts what a disk holds. */
export interface FirmwareBoot {
  readonly kind: 'firmware';
  /** SeaBIOS where not given. */
  readonly uefi?: Pick<OvmfPart, 'code' | 'variables'>;
  /** The device whose disk is tried first. */
  readonly from: RequesterId;
  /** For a systemd in the guest. */
  readonly credentials?: readonly SystemdCredential[];
}

/** `share=on` always: a vfio-user server maps guest RAM through the descriptor that QEMU sends. */
export type GuestRam =
  | { readonly kind: 'memfd'; readonly bytes: number }
  /** A file that is `bytes` long already: the sealed RAM. */
  | { readonly kind: 'file'; readonly bytes: number; readonly path: string };

export type GuestDevice =
  | {
      readonly kind: 'vfio-user';
      /** On bus 0, or behind a root port: there a function keeps the BDF that it is given. */
      readonly address: RequesterId;
      /** A UNIX socket on which a server listens already. */
      readonly socket: string;
      /** QEMU drops the device for good when a reply takes longer. */
      readonly messageTimeoutMs?: number;
    }
  | {
      readonly kind: 'builtin';
      readonly address: RequesterId;
      /** QEMU's name for it: `edu`. */
      readonly driver: string;
      readonly properties?: Readonly<Record<string, string | number | boolean>>;
      /** A raw file that is its disk, by QEMU's own block layer: its property `drive`. */
      readonly drive?: { readonly file: string; readonly readOnly?: boolean };
    };

/** Where a character device of the guest ends on the host. */
export type Channel =
  /** A connected stream socket that QEMU inherits. */
  | { readonly kind: 'descriptor'; readonly fd: number }
  /** QEMU listens, and does not wait for a client. */
  | { readonly kind: 'listen'; readonly path: string }
  | { readonly kind: 'stdio' };

/** The port's name is the agent's (qemu/agent/agent.h). */
export const agentPortName = 'sealbus.agent';
/** Kept from devices: the agent's virtio-serial function, and the entropy source. */
const agentAddress = parseRequesterId('00:1e.0');
const entropyAddress = parseRequesterId('00:1d.0');
const messageTimeoutDefaultMs = 600_000;

/**
 * Arguments to a QEMU, without the program.
 * @throws VmError where the description cannot be had: a device neither on bus 0 nor behind a root port, or on a
 *   taken address, root ports of a pc, no CPU, memory that is no multiple of 1 MiB.
 */
export function qemuArguments(description: VirtualMachineDescription): string[] {
  check(description);
  const { machine, accelerator, cpus, memory, boot } = description;
  const args = [
    ...['-machine', `${machine},accel=${accelerator},memory-backend=ram`],
    ...['-cpu', accelerator === 'kvm' ? 'host' : 'qemu64'],
    ...['-smp', String(cpus), '-m', `${memory.bytes / 2 ** 20}M`],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ...['-object', JSON.stringify(ramObject(memory))],
    ...(boot.kind === 'kernel' ? directBoot(boot) : firmwareBoot(boot)),
  ];
  args.push('-chardev', chardev('console', description.console), '-serial', 'chardev:console');
  if (description.qmp) {
    args.push('-chardev', chardev('qmp', description.qmp), '-qmp', 'chardev:qmp');
  }
  if (description.agent) {
    const port = { driver: 'virtserialport', chardev: 'agent', name: agentPortName };
    args.push('-chardev', chardev('agent', description.agent));
    args.push(
      ...device({ driver: 'virtio-serial-pci', addr: slot(agentAddress) }),
      ...device(port),
    );
  }
  if (description.incoming) args.push('-incoming', 'defer');
  if (description.entropy) {
    args.push(...device({ driver: 'virtio-rng-pci', addr: slot(entropyAddress) }));
  }
  for (const file of description.acpiTables ?? [])
    args.push('-acpitable', `file=${escapeComma(file)}`);
  for (const port of rootPortDevices(description.rootPorts ?? 0)) args.push(...device(port));
  const shared = devicesOfSeveralFunctions(description.devices);
  for (const entry of description.devices) {
    const several = (entry.address & 7) === 0 && shared.has(entry.address >> 3);
    const first = boot.kind === 'firmware' && boot.from === entry.address;
    args.push(...drive(entry));
    args.push(
      ...device({
        ...deviceProperties(entry),
        ...(several ? { multifunction: true } : {}),
        ...(first ? { bootindex: 0 } : {}),
      }),
    );
  }
  return args;
}

/** The whole command, with the program and what it needs in front. */
export function qemuCommand(qemu: QemuPart, description: VirtualMachineDescription): string[] {
  return [...qemu.command, ...qemuArguments(description)];
}

/**
 * The command as a shell takes it, an option a line: environment first. A description to be run by
 * hand should have no `descriptor` channel.
 */
export function formatCommand(
  command: readonly string[],
  env: Readonly<Record<string, string>> = {},
): string {
  const lines: string[] = [];
  let line = Object.entries(env).map(([name, value]) => `${name}=${quote(value)}`);
  for (const word of command) {
    if (word.startsWith('-') && line.length > 0) {
      lines.push(line.join(' '));
      line = [];
    }
    line.push(quote(word));
  }
  lines.push(line.join(' '));
  return lines.join(' \\\n  ');
}

function quote(word: string): string {
  if (/^[\w@%+=:,./-]+$/.test(word)) return word;
  return `'${word.replaceAll("'", "'\\''")}'`;
}

function ramObject(memory: GuestRam): Record<string, unknown> {
  const common = { id: 'ram', size: memory.bytes, share: true };
  if (memory.kind === 'memfd') return { 'qom-type': 'memory-backend-memfd', ...common };
  return { 'qom-type': 'memory-backend-file', ...common, 'mem-path': memory.path };
}

function directBoot({ image, initrd, arguments: words }: DirectBoot): string[] {
  const initial = initrd === undefined ? [] : ['-initrd', initrd];
  return ['-kernel', image, ...initial, '-append', words.join(' ')];
}

function firmwareBoot({ uefi, credentials = [] }: FirmwareBoot): string[] {
  return [...(uefi === undefined ? [] : flash(uefi)), ...credentialArguments(credentials)];
}

/** Two flash chips; what the guest stores in the second is gone with QEMU. */
function flash({ code, variables }: NonNullable<FirmwareBoot['uefi']>): string[] {
  const chip = (unit: number, file: string, more: string) =>
    `if=pflash,unit=${unit},format=raw,${more},file=${escapeComma(file)}`;
  return [
    ...['-drive', chip(0, code, 'readonly=on')],
    ...['-drive', chip(1, variables, 'snapshot=on')],
  ];
}

function drive(entry: GuestDevice): string[] {
  if (entry.kind !== 'builtin' || entry.drive === undefined) return [];
  const { file, readOnly = false } = entry.drive;
  const options = `if=none,id=${driveId(entry.address)},format=raw,readonly=${readOnly ? 'on' : 'off'}`;
  return ['-drive', `${options},file=${escapeComma(file)}`];
}

function driveId(address: RequesterId): string {
  return `drive-${formatRequesterId(address).replaceAll(/[:.]/g, '-')}`;
}

/** What -device takes, and QMP's device_add. */
export function deviceProperties(entry: GuestDevice): Record<string, unknown> {
  const place = placeProperties(entry.address);
  if (entry.kind === 'builtin') {
    const disk = entry.drive === undefined ? {} : { drive: driveId(entry.address) };
    return { driver: entry.driver, ...place, ...disk, ...entry.properties };
  }
  return {
    driver: 'vfio-user-pci',
    ...place,
    socket: { type: 'unix', path: entry.socket },
    'x-msg-timeout': entry.messageTimeoutMs ?? messageTimeoutDefaultMs,
  };
}

/** Behind a port it has a name, by which it is taken out again. */
function placeProperties(address: RequesterId): Record<string, unknown> {
  const port = portOf(address);
  const addr = slot(address);
  return port === undefined ? { addr } : { bus: portId(port), addr, id: functionId(port) };
}

function device(properties: Record<string, unknown>): [string, string] {
  return ['-device', JSON.stringify(properties)];
}

function chardev(id: string, channel: Channel): string {
  switch (channel.kind) {
    case 'descriptor':
      return `socket,id=${id},fd=${channel.fd}`;
    case 'listen':
      return `socket,id=${id},path=${escapeComma(channel.path)},server=on,wait=off`;
    case 'stdio':
      return `stdio,id=${id},signal=off`;
  }
}

/** QEMU's option lists part at commas; a doubled one is a comma. */
function escapeComma(value: string): string {
  return value.replaceAll(',', ',,');
}

/** `4.0`, as addr= takes it: on its bus. */
function slot(address: RequesterId): string {
  return `${((address >> 3) & 0x1f).toString(16)}.${address & 7}`;
}

/** Device numbers at which there is more than function 0: their function 0 has to say so. */
function devicesOfSeveralFunctions(devices: readonly GuestDevice[]): ReadonlySet<number> {
  return new Set(
    devices.filter(({ address }) => (address & 7) !== 0).map(({ address }) => address >> 3),
  );
}

function check(description: VirtualMachineDescription): void {
  const { cpus, memory, boot, devices, rootPorts = 0 } = description;
  asVmError(() => checkRootPorts(rootPorts));
  if (rootPorts > 0 && description.machine !== 'q35') {
    throw new VmError(`expected a q35 to have root ports, got a ${description.machine}`);
  }
  if (!Number.isInteger(cpus) || cpus < 1 || cpus > 64) {
    throw new VmError(`expected 1 to 64 virtual CPUs, got ${cpus}`);
  }
  if (memory.bytes % 2 ** 20 !== 0 || memory.bytes < 64 * 2 ** 20) {
    throw new VmError(
      `expected guest memory of whole MiB, at least 64 MiB, got ${memory.bytes} bytes`,
    );
  }
  const words = boot.kind === 'kernel' ? boot.arguments : [];
  const split = words.find((argument) => /\s/.test(argument) || argument === '');
  if (split !== undefined) {
    throw new VmError(`expected kernel arguments without spaces, got ${JSON.stringify(split)}`);
  }
  const taken = new Set<number>([0, 0x1f << 3]);
  if (description.agent) taken.add(agentAddress);
  if (description.entropy) taken.add(entropyAddress);
  for (const { address } of devices) {
    const name = formatRequesterId(address);
    asVmError(() => checkPlace(address, rootPorts));
    if (taken.has(address)) {
      throw new VmError(`expected a free device address, got ${name}, which is taken`);
    }
    taken.add(address);
  }
  if (boot.kind === 'firmware' && !devices.some(({ address }) => address === boot.from)) {
    throw new VmError(
      `expected a device to boot from at ${formatRequesterId(boot.from)}, got none there`,
    );
  }
  for (const number of devicesOfSeveralFunctions(devices)) {
    const first = (number << 3) as RequesterId;
    if (!devices.some(({ address }) => address === first)) {
      throw new VmError(
        `expected a function 0 beside the others of its device (PCI Local Bus 3.0 §3.2.2.3.4), ` +
          `got none at ${formatRequesterId(first)}`,
      );
    }
  }
}

function asVmError(check: () => void): void {
  try {
    check();
  } catch (error) {
    throw new VmError(error instanceof Error ? error.message : String(error), { cause: error });
  }
}
