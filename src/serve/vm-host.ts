import { type KeySlot, keySlot } from '../keys/key-slot.ts';
import type { KeySlots } from '../machine/key-slots.ts';
import { Machine } from '../machine/machine.ts';
import { Platform } from '../machine/platform.ts';
import { formatRequesterId, type RequesterId } from '../pci/requester-id.ts';
import type { Parts } from '../setup/parts.ts';
import type { Accelerator } from '../vm/qemu-command.ts';
import { atPlace, ConfigError } from './config/config-place.ts';
import type { ServeConfig, VmConfig } from './config/serve-config.ts';
import { makeFunction } from './make-function.ts';
import { Recorder } from './record/recorder.ts';
import { printedCommand, ServedVm } from './served-vm.ts';

export interface VmHostOptions {
  readonly parts: Parts;
  /** Whether it can seal memory; `plain` for hosts without /dev/fuse. Default `sealed`. */
  readonly memory?: 'sealed' | 'plain';
  /** For the QEMUs that it prints. Default: KVM where a probe shows that it works, else TCG. */
  readonly accelerator?: Accelerator | 'auto';
  /** What went wrong and could be lived with. Default: standard error. */
  readonly log?: (message: string) => void;
}

/** What a function is to be bound to: a slot of its VM's, or, by the name of its VM, that VM's own. */
export type BindTarget = { readonly slot: KeySlot } | { readonly vm: string };

/**
 * Any number of VMs in one process, by name: the servers of their functions and their sealed RAM, for VMMs that
 * somebody else starts. What `sealbus serve` runs.
 */
export class VmHost implements AsyncDisposable {
  readonly platform: Platform;
  readonly recorder: Recorder;
  readonly #options: VmHostOptions;
  readonly #log: (message: string) => void;
  readonly #vms = new Map<string, { readonly vm: ServedVm; readonly end: AsyncDisposableStack }>();
  /** Names of VMs that come or go. */
  readonly #busy = new Set<string>();
  #closed = false;

  /** @throws FuseUnavailable where memory cannot be sealed here; MemoryError */
  static async start(options: VmHostOptions): Promise<VmHost> {
    const { memory = 'sealed', log } = options;
    const platform = await Platform.create({ memory, ...(log === undefined ? {} : { log }) });
    return new VmHost(platform, options);
  }

  private constructor(platform: Platform, options: VmHostOptions) {
    this.platform = platform;
    this.#options = options;
    this.#log = platform.log;
    this.recorder = new Recorder(platform);
  }

  get keys(): KeySlots {
    return this.platform.keys;
  }

  /** In the order in which they came. */
  get vms(): readonly ServedVm[] {
    return [...this.#vms.values()].map(({ vm }) => vm);
  }

  /** @throws Error where none is called so */
  vm(name: string): ServedVm {
    const found = this.#vms.get(name);
    if (found !== undefined) return found.vm;
    const there = [...this.#vms.keys()].join(', ') || 'none';
    throw new Error(`expected the name of a VM (${there}), got ${JSON.stringify(name)}`);
  }

  /** All VMs of a configuration, or none of them. @throws ConfigError, as {@link add} */
  async addAll({ vms }: ServeConfig): Promise<ServedVm[]> {
    const added: ServedVm[] = [];
    try {
      for (const config of vms) added.push(await this.add(config));
      return added;
    } catch (error) {
      for (const { name } of added) await this.remove(name);
      throw error;
    }
  }

  /**
   * Makes a VM: its memory and key, its functions and their servers. The others go on meanwhile.
   * @throws ConfigError that names line and field: a name, slot or socket that is taken, a disk or a device that
   *   cannot be had, a descriptor without a key
   */
  async add(config: VmConfig): Promise<ServedVm> {
    const { name, place } = config;
    if (this.#closed) throw new ConfigError(place, 'expected a host that is up, got one that ends');
    if (this.#vms.has(name) || this.#busy.has(name)) {
      throw new ConfigError(place, `expected a new name, got ${name}, which is a VM's already`);
    }
    this.#busy.add(name);
    const end = new AsyncDisposableStack();
    try {
      const vm = await this.#make(config, end);
      if (this.#closed)
        throw new ConfigError(place, 'expected a host that is up, got one that ends');
      this.#vms.set(name, { vm, end });
      this.recorder.vm(vm.machine.vm, name, 'added');
      return vm;
    } catch (error) {
      await end.disposeAsync();
      throw error;
    } finally {
      this.#busy.delete(name);
    }
  }

  /**
   * Ends a VM: its servers close, its keys are destroyed, its memory goes. A VMM that is attached loses its
   * devices, and dies at the next page of memory that it misses. @returns how many functions were attached
   * @throws Error where none is called so
   */
  async remove(name: string): Promise<number> {
    const { machine, attached } = this.vm(name);
    const found = this.#vms.get(name);
    if (this.#busy.has(name) || found === undefined) {
      throw new Error(`expected a VM that stays, got ${name}, which is going already`);
    }
    this.#busy.add(name);
    try {
      if (attached > 0) {
        this.#log(
          `VM ${name} ends: a VMM that is attached loses ${attached} functions, and its memory`,
        );
      }
      this.#vms.delete(name);
      await found.end.disposeAsync();
      this.recorder.vm(machine.vm, name, 'removed');
      return attached;
    } finally {
      this.#busy.delete(name);
    }
  }

  /**
   * Has a function's DMA go through another slot of its VM, from the next DMA on.
   * @throws Error where there is no such function, or the slot or VM is not its own
   */
  bind(rid: RequesterId, target: BindTarget): void {
    const { table } = this.platform.iommu;
    const entry = table.get(rid);
    const name = formatRequesterId(rid);
    if (entry === undefined) {
      throw new Error(`expected the requester ID of a function, got ${name}, which is none's`);
    }
    const slot = 'slot' in target ? target.slot : this.vm(target.vm).machine.slot;
    const { state, vm } = this.keys.describe(slot);
    if (vm !== entry.vm) {
      const whose = vm === undefined ? `is ${state}` : `is VM ${vm}'s`;
      throw new Error(
        `expected a slot of VM ${entry.vm}, whose function ${name} is, got slot ${slot}, which ${whose}`,
      );
    }
    table.set(rid, { ...entry, slotFrom: 'device-table', slot });
  }

  /** A slot by its number, or that of a VM by its name. @throws Error, RangeError */
  slotOf(text: string): KeySlot {
    return /^\d+$/.test(text) ? keySlot(Number(text)) : this.vm(text).machine.slot;
  }

  /** Every VM, then what all stand on. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const errors: unknown[] = [];
    for (const { name } of this.vms) await this.remove(name).catch((error) => errors.push(error));
    this.recorder[Symbol.dispose]();
    await this.platform[Symbol.asyncDispose]();
    if (errors.length > 0) throw errors[0];
  }

  async #make(config: VmConfig, end: AsyncDisposableStack): Promise<ServedVm> {
    const { memory, bytes, iommu, key, slot } = config;
    const { parts, accelerator = 'auto' } = this.#options;
    const log = (message: string) => this.#log(`VM ${config.name}: ${message}`);
    // Before the machine, for these go after it.
    const made = [];
    for (const { device, at, socket } of config.functions) {
      const opened = (close: () => Promise<void>) => end.defer(close);
      made.push({ at, socket, endpoint: await makeFunction(device, { memory, log, opened }) });
    }
    const machine = end.use(
      await atPlace(slot?.place ?? key.place, () =>
        Machine.create({
          ...{ platform: this.platform, parts, memory, bytes, iommu, log, keyBits: key.bits },
          ...(slot === undefined ? {} : { slot: slot.value }),
          ...(key.descriptor === undefined ? {} : { keyDescriptor: key.descriptor }),
        }),
      ),
    );
    for (const { at, socket, endpoint } of made) {
      await atPlace(socket?.place ?? at.place, () =>
        machine.plug(endpoint, at.value, socket?.value),
      );
    }
    const command = await atPlace(config.place, () =>
      printedCommand(config, machine, parts.qemu, accelerator),
    );
    return new ServedVm(config, machine, command);
  }
}
