import type { SlotRange } from '../iommu/slot-ranges.ts';
import type { Machine, PluggedFunction } from '../machine/machine.ts';
import { formatRequesterId, type RequesterId } from '../pci/requester-id.ts';
import type { QemuPart } from '../setup/parts.ts';
import type { Accelerator } from '../vm/qemu-command.ts';
import { formatCommand, qemuCommand } from '../vm/qemu-command.ts';
import type { DeviceConfig, VmConfig } from './config/serve-config.ts';
import { consoleArguments, consoleImage } from './console-init.ts';
import { deviceName } from './make-function.ts';
import { type ShownSlot, shownSlot } from './record/record-line.ts';

/** The QEMU that boots against a VM's servers. */
export interface PrintedCommand {
  readonly words: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** As a shell takes it. */
  readonly text: string;
}

/** A function of an NVM subsystem. */
export interface SubsystemFunction {
  /** The subsystem's. */
  readonly name: string;
  readonly function: number;
}

/** A function as people look at it. */
export interface FunctionDescription {
  /** On the VM's segment of the host. */
  readonly rid: string;
  /** As the guest has it. */
  readonly address: string;
  readonly device: string;
  /** What it is a function of, where it is one of a subsystem's. */
  readonly subsystem: SubsystemFunction | undefined;
  readonly socket: string;
  /** Whether a VMM is connected to it. */
  readonly attached: boolean;
  /** What its device-table entry says; undefined where it has none, which blocks it. */
  readonly entry:
    | {
        readonly vm: number;
        readonly slotFrom: 'device-table' | 'translation';
        readonly slot: ShownSlot | undefined;
        readonly rights: string;
        readonly domain: number;
        /** All addresses with their slots, where we made the translations. */
        readonly ranges: readonly ShownRange[] | undefined;
      }
    | undefined;
}

/** Addresses of a guest, and what data there goes through. */
export interface ShownRange {
  readonly start: string;
  readonly bytes: number;
  readonly slot: ShownSlot;
  readonly generation: number | null;
}

/** What a VM's functions were made of and find their slots by. */
export interface AboutFunctions {
  device(rid: RequesterId): DeviceConfig | undefined;
  /** Undefined where the translations are not ours. */
  ranges(rid: RequesterId): readonly SlotRange[] | undefined;
}

/** A VM that is served: its machine, which has no guest of its own, and what it was made of. */
export class ServedVm {
  readonly config: VmConfig;
  readonly machine: Machine;
  /** Another one after a function has come or gone. */
  command: PrintedCommand;
  readonly #about: AboutFunctions;

  constructor(config: VmConfig, machine: Machine, command: PrintedCommand, about: AboutFunctions) {
    this.config = config;
    this.machine = machine;
    this.command = command;
    this.#about = about;
  }

  get name(): string {
    return this.config.name;
  }

  /** Functions that a VMM is connected to. */
  get attached(): number {
    return this.machine.functions.filter(({ server }) => server.connected).length;
  }

  get functions(): FunctionDescription[] {
    return this.machine.functions.map((one) => this.#describe(one));
  }

  #describe({ rid, address, endpoint, server }: PluggedFunction): FunctionDescription {
    const entry = this.machine.iommu.table.get(rid);
    const device = this.#about.device(rid);
    return {
      rid: formatRequesterId(rid),
      address: formatRequesterId(address),
      device: device === undefined ? endpoint.constructor.name : deviceName(device),
      subsystem:
        device?.kind === 'subsystem-function'
          ? { name: device.subsystem.value, function: device.number.value }
          : undefined,
      socket: server.socketPath,
      attached: server.connected,
      entry: entry && {
        vm: entry.vm,
        slotFrom: entry.slotFrom ?? 'device-table',
        slot: entry.slot === undefined ? undefined : shownSlot(entry.slot),
        rights: entry.rights,
        domain: entry.domain.id,
        ranges: this.#about.ranges(rid)?.map(shownRange),
      },
    };
  }
}

function shownRange({ start, bytes, slot, generation }: SlotRange): ShownRange {
  return {
    ...{ start: `0x${start.toString(16)}`, bytes, slot: shownSlot(slot) },
    generation: generation ?? null,
  };
}

/** In the place of a command where there is none. */
export function noCommand(why: string): PrintedCommand {
  return { words: [], env: {}, text: `# ${why}` };
}

/** @throws VmError, SetupError */
export async function printedCommand(
  config: VmConfig,
  machine: Machine,
  qemu: QemuPart,
  accelerator: Accelerator | 'auto',
): Promise<PrintedCommand> {
  const { description } = await machine.plan({
    accelerator,
    cpus: config.cpus,
    ...(config.boot === undefined
      ? { image: consoleImage, kernelArguments: consoleArguments }
      : { disk: { from: config.boot.value, agent: false } }),
  });
  const words = qemuCommand(qemu, {
    ...{ ...description, console: { kind: 'stdio' } },
    ...(machine.rootPorts === 0
      ? {}
      : { qmp: { kind: 'listen', path: machine.monitor.socketPath } }),
  });
  return { words, env: qemu.env, text: formatCommand(words, qemu.env) };
}
