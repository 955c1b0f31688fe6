import type { AddressRange } from '../iommu/slot-ranges.ts';
import { type KeySlot, keySlot } from '../keys/key-slot.ts';
import { NotInGuestError } from '../machine/hot-plug.ts';
import type { Instrument } from '../machine/instrument.ts';
import type { KeySlots } from '../machine/key-slots.ts';
import { Machine, type PluggedFunction } from '../machine/machine.ts';
import { Platform } from '../machine/platform.ts';
import type { ConversionOptions, PageRange } from '../memory/page-conversion.ts';
import { formatRequesterId, type RequesterId } from '../pci/requester-id.ts';
import type { Parts } from '../setup/parts.ts';
import type { Accelerator } from '../vm/qemu-command.ts';
import { atPlace, ConfigError, type ConfigPlace } from './config/config-place.ts';
import type { DeviceConfig, FunctionConfig, ServeConfig, VmConfig } from './config/serve-config.ts';
import { placeProblems } from './guest-place.ts';
import { type MakeOptions, makeFunction, serialAt } from './make-function.ts';
import { Recorder } from './record/recorder.ts';
import type { FunctionPlace } from './served-subsystem.ts';
import { noCommand, type PrintedCommand, printedCommand, ServedVm } from './served-vm.ts';
import { type BoundSlot, SlotBindings } from './slot-bindings.ts';
import { Subsystems } from './subsystems.ts';
import { VmChanges } from './vm-changes.ts';

export interface VmHostOptions {
  readonly parts: Parts;
  /** Whether it can seal memory; `plain` for hosts without /dev/fuse. Default `sealed`. */
  readonly memory?: 'sealed' | 'plain';
  /** For the QEMUs that it prints. Default: KVM where a probe shows that it works, else TCG. */
  readonly accelerator?: Accelerator | 'auto';
  /** What watches or disturbs a VM, by its name, from the device outwards: asked for each VM that is made. */
  readonly instruments?: (vm: string) => readonly Instrument[];
  /** What went wrong and could be lived with. Default: standard error. */
  readonly log?: (message: string) => void;
}

/** What a function is made of: it goes with the function, from VM to VM. */
interface ServedFunction {
  readonly device: DeviceConfig;
  /** Closed after it: a function of a subsystem is given back. */
  readonly disks: AsyncDisposableStack;
}

/**
 * What a function is to be bound to: a slot of its VM's; or, by the name of its VM, that VM's own, with a place to go to
 * in that VM, as its guest has it; or none, `clear`, for shared pages.
 */
export type BindTarget =
  | { readonly slot: KeySlot }
  | { readonly vm: string; readonly at?: RequesterId }
  | 'clear';

/**
 * Any number of VMs in one process, by name: the servers of their functions and their sealed RAM, for VMMs that
 * somebody else starts. What `sealbus serve` runs.
 */
export class VmHost implements AsyncDisposable {
  readonly platform: Platform;
  readonly recorder: Recorder;
  /** By what functions find their slots. */
  readonly bindings: SlotBindings;
  readonly subsystems: Subsystems;
  readonly #options: VmHostOptions;
  readonly #log: (message: string) => void;
  readonly #vms = new Map<string, ServedVm>();
  /** By their requester IDs. */
  readonly #functions = new Map<RequesterId, ServedFunction>();
  /** VMs that come or go, or whose functions move. */
  readonly #changes = new VmChanges();
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
    this.bindings = new SlotBindings(platform, this.recorder);
    this.subsystems = new Subsystems({
      ...{ recorder: this.recorder, log: platform.log },
      placesOf: (subsystem) => this.#placesOf(subsystem),
    });
  }

  get keys(): KeySlots {
    return this.platform.keys;
  }

  /** In the order in which they came. */
  get vms(): readonly ServedVm[] {
    return [...this.#vms.values()];
  }

  /** @throws Error where none is called so */
  vm(name: string): ServedVm {
    const found = this.#vms.get(name);
    if (found !== undefined) return found;
    const there = [...this.#vms.keys()].join(', ') || 'none';
    throw new Error(`expected the name of a VM (${there}), got ${JSON.stringify(name)}`);
  }

  /** All subsystems and VMs of a configuration, or none of them. @throws ConfigError, as {@link add} */
  async addAll({ subsystems, vms }: ServeConfig): Promise<ServedVm[]> {
    const opened = await this.subsystems.addAll(subsystems);
    const added: ServedVm[] = [];
    try {
      for (const config of vms) added.push(await this.add(config));
      return added;
    } catch (error) {
      // Somebody else may have removed one by now, or use it. The first error is the outcome.
      for (const { name } of added) await this.remove(name).catch(() => {});
      for (const name of opened) await this.subsystems.remove(name).catch(() => {});
      throw error;
    }
  }

  /**
   * Makes a VM: its memory and key, its functions and their servers. The others go on meanwhile. Subsystems that it
   * has functions of are there already.
   * @throws ConfigError that names line and field: a name, slot or socket that is taken, a disk or a device that
   *   cannot be had, a function of a subsystem that a VM has, a descriptor without a key
   */
  async add(config: VmConfig): Promise<ServedVm> {
    const { name, place } = config;
    if (this.#closed) throw ended(place);
    if (this.#vms.has(name) || this.#changes.has(name)) {
      throw new ConfigError(place, `expected a new name, got ${name}, which is a VM's already`);
    }
    using _kept = this.#changes.keep(name);
    const vm = await this.#make(config);
    this.#vms.set(name, vm);
    this.recorder.vm(vm.machine.vm, name, 'added');
    return vm;
  }

  /**
   * Ends a VM: its servers close, its keys are destroyed, its memory goes. A VMM that is attached loses its
   * devices, and dies at the next page of memory that it misses. @returns how many functions were attached
   * @throws Error where none is called so
   */
  async remove(name: string): Promise<number> {
    const vm = this.vm(name);
    const { machine, attached } = vm;
    await this.#changes.alone([name], async () => {
      if (attached > 0) {
        const lost = attached === 1 ? 'a function' : `${attached} functions`;
        this.#log(`VM ${name} ends: a VMM that is attached loses ${lost}, and its memory`);
      }
      this.#vms.delete(name);
      const all = new AsyncDisposableStack();
      for (const { rid } of machine.functions) {
        const served = this.#functions.get(rid);
        if (served !== undefined) all.use(served.disks);
        this.#functions.delete(rid);
      }
      all.use(machine);
      try {
        await all.disposeAsync();
      } finally {
        this.recorder.vm(machine.vm, name, 'removed');
      }
    });
    return attached;
  }

  /**
   * Binds a function to a slot of its VM, whose key its DMA goes through from the next one on; or to a VM, by its
   * name: to that VM's own slot, and where it was another's, it is moved there, with nothing of the first VM in it,
   * from guest to guest where those run and have root ports. A guest that has not got what is its VM's gets it.
   * With `clear` its DMA goes through no key.
   * @returns its requester ID, which is another one where it has moved
   * @throws Error where there is no such function, the slot is not its VM's, it cannot be moved, its VM boots from it,
   *   its VM changes, or has no shared pages, as memory is plain; NotInGuestError where it has moved, and the guest that runs has not got it
   */
  async bind(rid: RequesterId, target: BindTarget): Promise<RequesterId> {
    const { vm: from, plugged } = this.#find(rid);
    if (target === 'clear' || 'slot' in target) {
      // One that moves would lose it at once.
      this.#changes.expectNone([from.name]);
      this.bindings.bind(rid, from, target === 'clear' ? target : target.slot);
      return rid;
    }
    const { at } = target;
    const to = this.vm(target.vm);
    if (from !== to || at !== undefined) {
      return await this.#changes.alone([from.name, to.name], () =>
        this.#move(plugged, from, to, at),
      );
    }
    return await this.#changes.alone([to.name], async () => {
      this.bindings.bind(rid, to, to.machine.slot);
      await to.machine.attach(plugged);
      return rid;
    });
  }

  /**
   * Binds what a function does in a range of addresses to a slot, by the translation.
   * @throws Error where there is no such function, or its VM changes; as SlotBindings.bindRange
   */
  bindRange(rid: RequesterId, range: AddressRange, slot: BoundSlot): void {
    const { vm } = this.#find(rid);
    this.#changes.expectNone([vm.name]);
    this.bindings.bindRange(rid, vm, range, slot);
  }

  /** Makes pages of a VM shared, while it runs. @throws Error where none is called so; as Machine.share */
  async share(name: string, range: PageRange, options: ConversionOptions): Promise<void> {
    await this.vm(name).machine.share(range, options);
  }

  /** Makes pages of a VM private again. @throws as {@link share} */
  async unshare(name: string, range: PageRange, options: ConversionOptions): Promise<void> {
    await this.vm(name).machine.unshare(range, options);
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
    // Who waits for a guest is told that nothing will come.
    for (const { machine } of this.vms) machine.monitor[Symbol.dispose]();
    while (this.#vms.size > 0 || this.#changes.underWay) {
      // A function that moves is in no VM, and a VM that goes stands on what is to go after it.
      await this.#changes.settled();
      for (const name of this.#vms.keys()) {
        await this.remove(name).catch((error) => errors.push(error));
      }
    }
    await this.subsystems[Symbol.asyncDispose]().catch((error) => errors.push(error));
    this.recorder[Symbol.dispose]();
    await this.platform[Symbol.asyncDispose]();
    if (errors.length > 0) throw errors[0];
  }

  #find(rid: RequesterId): { readonly vm: ServedVm; readonly plugged: PluggedFunction } {
    for (const vm of this.#vms.values()) {
      const plugged = vm.machine.functions.find((one) => one.rid === rid);
      if (plugged !== undefined) return { vm, plugged };
    }
    const name = formatRequesterId(rid);
    throw new Error(`expected the requester ID of a function, got ${name}, which is none's`);
  }

  async #move(
    plugged: PluggedFunction,
    from: ServedVm,
    to: ServedVm,
    address: RequesterId | undefined,
  ): Promise<RequesterId> {
    const { rid } = plugged;
    const served = this.#functions.get(rid);
    if (served === undefined) {
      throw new Error(`expected a function to move, got ${formatRequesterId(rid)}, the VM's IOMMU`);
    }
    if (from.config.boot?.value === plugged.address) {
      throw new Error(
        `expected a function that its VM can do without, got ${formatRequesterId(rid)}, which ${from.name} boots ` +
          'from: remove that VM first',
      );
    }
    if (address !== undefined) {
      const [wrong] = placeProblems(
        address,
        to.machine.functions.filter((one) => one !== plugged).map((one) => one.address),
      );
      if (wrong !== undefined) throw new Error(wrong);
    }
    const moved = async (now: PluggedFunction) => {
      this.#functions.delete(rid);
      this.#functions.set(now.rid, served);
      await this.#planAnew(from, to);
      return now.rid;
    };
    try {
      const { device, disks } = served;
      const serial = serialAt(to.name, address ?? plugged.address);
      return await moved(
        await this.platform.move(plugged, to.machine, {
          ...(address === undefined ? {} : { address }),
          ...(plugged.endpoint.handOver === undefined
            ? { endpoint: await makeFunction(device, serial, this.#making(to.config, disks)) }
            : {}),
        }),
      );
    } catch (error) {
      if (error instanceof NotInGuestError) await moved(error.plugged);
      // It may be out of the one and not in the other: what it was made of is free then.
      else if (!from.machine.functions.includes(plugged) && this.#functions.delete(rid)) {
        await served.disks.disposeAsync();
        await this.#planAnew(from);
      }
      throw error;
    }
  }

  /** They have other functions than before. What has happened stays so, also where no QEMU could boot with them. */
  async #planAnew(...vms: readonly ServedVm[]): Promise<void> {
    for (const vm of vms) {
      vm.command = await this.#command(vm.config, vm.machine).catch((error: unknown) => {
        const why = error instanceof Error ? error.message : String(error);
        this.#log(`VM ${vm.name} cannot be booted with the functions that it has: ${why}`);
        return noCommand(why);
      });
    }
  }

  /** A VM with all that the configuration says, or nothing of it. */
  async #make(config: VmConfig): Promise<ServedVm> {
    const { memory, bytes, iommu, rootPorts, key, slot } = config;
    const { parts } = this.#options;
    await using undo = new AsyncDisposableStack();
    // Disks before the machine, for they go after it.
    const made = [];
    for (const { device, at, socket, slotFrom } of config.functions) {
      const disks = undo.use(new AsyncDisposableStack());
      const endpoint = await makeFunction(
        device,
        serialAt(config.name, at.value),
        this.#making(config, disks),
      );
      made.push({ at, socket, slotFrom, endpoint, served: { device, disks } });
    }
    const machine = undo.use(
      await atPlace(slot?.place ?? key.place, () =>
        Machine.create({
          ...{ platform: this.platform, parts, memory, bytes, iommu, rootPorts, keyBits: key.bits },
          log: this.#making(config, undo).log,
          instruments: this.#options.instruments?.(config.name) ?? [],
          ...(slot === undefined ? {} : { slot: slot.value }),
          ...(key.descriptor === undefined ? {} : { keyDescriptor: key.descriptor }),
        }),
      ),
    );
    const served = new Map<RequesterId, ServedFunction>();
    const slotsFrom = new Map<RequesterId, NonNullable<FunctionConfig['slotFrom']>>();
    for (const one of made) {
      const { at, socket, endpoint } = one;
      const { rid } = await atPlace(socket?.place ?? at.place, () =>
        machine.plug(endpoint, at.value, socket?.value),
      );
      served.set(rid, one.served);
      if (one.slotFrom !== undefined) slotsFrom.set(rid, one.slotFrom);
    }
    const command = await atPlace(config.place, () => this.#command(config, machine));
    if (this.#closed) throw ended(config.place);
    const vm = new ServedVm(config, machine, command, {
      device: (rid) => this.#functions.get(rid)?.device,
      ranges: (rid) => this.bindings.ranges(rid),
    });
    for (const [rid, slotFrom] of slotsFrom) {
      if (slotFrom.value !== 'translation') continue;
      this.bindings.byTranslation(rid, vm);
    }
    undo.move();
    for (const [rid, one] of served) this.#functions.set(rid, one);
    return vm;
  }

  #making({ name, memory }: VmConfig, disks: AsyncDisposableStack): MakeOptions {
    return {
      memory,
      log: (message) => this.#log(`VM ${name}: ${message}`),
      opened: (close) => disks.defer(close),
      subsystems: this.subsystems,
    };
  }

  /** Where the functions of a subsystem are that VMs have, by number. */
  #placesOf(subsystem: string): ReadonlyMap<number, FunctionPlace> {
    const places = new Map<number, FunctionPlace>();
    for (const { name, machine } of this.vms) {
      for (const { rid } of machine.functions) {
        const device = this.#functions.get(rid)?.device;
        if (device?.kind !== 'subsystem-function' || device.subsystem.value !== subsystem) continue;
        places.set(device.number.value, { vm: name, rid: formatRequesterId(rid) });
      }
    }
    return places;
  }

  #command(config: VmConfig, machine: Machine): Promise<PrintedCommand> {
    const { parts, accelerator = 'auto' } = this.#options;
    return printedCommand(config, machine, parts.qemu, accelerator);
  }
}

function ended(place: ConfigPlace): ConfigError {
  return new ConfigError(place, 'expected a host that is up, got one that ends');
}
