import { VirtioIommu } from '../devices/iommu/virtio-iommu.ts';
import { IdentityDomain } from '../iommu/domain.ts';
import type { Iommu } from '../iommu/iommu.ts';
import type { KeySlot } from '../keys/key-slot.ts';
import type { VmId } from '../keys/vm-id.ts';
import type { MemoryController } from '../memory/memory-controller.ts';
import type { ConversionOptions, PageRange } from '../memory/page-conversion.ts';
import type { SealedRam } from '../memory/sealed-ram.ts';
import type { PciEndpoint } from '../pci/endpoint.ts';
import { MsiForMsix } from '../pci/msi-for-msix.ts';
import { formatRequesterId, type RequesterId } from '../pci/requester-id.ts';
import type { Parts } from '../setup/parts.ts';
import { traceOfEnvironment } from '../trace/environment.ts';
import { VfioUserServer } from '../vfio-user/server.ts';
import { bootGuest, type GuestOptions, type GuestPlan, planGuest } from '../vm/guest.ts';
import type { GuestRam } from '../vm/qemu-command.ts';
import { checkPlace, checkRootPorts, portOf } from '../vm/root-ports.ts';
import type { VirtualMachine } from '../vm/virtual-machine.ts';
import { guestOptions } from './guest-devices.ts';
import { IOMMU_ADDRESS, removeViot } from './guest-iommu.ts';
import { GuestMonitor } from './guest-monitor.ts';
import {
  attachFunction,
  type HotPlugOptions,
  hotPlugFunction,
  hotUnplugFunction,
} from './hot-plug.ts';
import { type Instrument, installAll, surround, tellLeft } from './instrument.ts';
import type { KeySlots } from './key-slots.ts';
import { checkShared, type MachineOptions } from './machine-options.ts';
import { PageSharing } from './page-sharing.ts';
import { Platform } from './platform.ts';
import type { PluggedFunction } from './plugged-function.ts';
import type { SlotRegister } from './slot-register.ts';
import type { Tenant } from './tenant.ts';

export { IOMMU_ADDRESS, type MachineOptions, type PluggedFunction };

/** A place that nobody else is given until this is disposed of. */
export interface ReservedPlace extends Disposable {
  /** As the guest has it. */
  readonly address: RequesterId;
}

/**
 * One VM with its devices: guest memory, its key slot, the IOMMU before it, and the functions that
 * are plugged in; alone, or on a platform with others. It starts what listens, so that QEMU comes last and goes first.
 */
export class Machine implements AsyncDisposable {
  readonly vm: VmId;
  /** The VM's own slot, active. */
  readonly slot: KeySlot;
  readonly platform: Platform;
  readonly bytes: number;
  /** Undefined where memory is plain. */
  readonly sealed: SealedRam | undefined;
  readonly pages = new PageSharing(this);
  /** What watches or disturbs it, from the device outwards. */
  readonly instruments: readonly Instrument[];
  readonly rootPorts: number;
  /** The QMP of the guest that runs. */
  readonly monitor: GuestMonitor;
  readonly log: (message: string) => void;
  readonly #lateFunctions: boolean;
  #virtioIommu: VirtioIommu | undefined;
  readonly #parts: MachineOptions['parts'];
  readonly #tenant: Tenant;
  /** Whether the platform ends with it. */
  readonly #alone: boolean;
  /** A guest would go on with what is in the page cache until it misses, and die of SIGBUS then. */
  readonly #onLost = (): void => this.#guest?.fail(this.platform.lost.reason);
  readonly #functions: PluggedFunction[] = [];
  /** Addresses that functions are on their way to. */
  readonly #reserved = new Set<RequesterId>();
  #guest: VirtualMachine | undefined;
  #closed = false;

  private constructor(options: MachineOptions, platform: Platform, tenant: Tenant) {
    this.#parts = options.parts;
    this.log = options.log ?? platform.log;
    this.platform = platform;
    this.#tenant = tenant;
    this.#alone = options.platform === undefined;
    this.vm = tenant.vm;
    this.slot = tenant.slot;
    this.bytes = tenant.bytes;
    this.sealed = tenant.sealed;
    this.rootPorts = options.rootPorts ?? 0;
    this.monitor = new GuestMonitor(platform.run.socket(`vm${tenant.vm}-qmp`));
    this.#lateFunctions = options.lateFunctions ?? false;
    // Outermost, whoever made this machine: `sealbus trace` records any command.
    const trace = traceOfEnvironment();
    this.instruments = [...(options.instruments ?? []), ...(trace === undefined ? [] : [trace])];
    installAll(this.instruments, this);
    platform.lost.addEventListener('abort', this.#onLost);
  }

  /**
   * @throws FuseUnavailable where memory cannot be sealed here; as Platform.admit; Error where options do not
   *   go with the platform
   */
  static async create(options: MachineOptions): Promise<Machine> {
    const machine = await Machine.#withMemory(options);
    if (options.iommu !== 'virtio') return machine;
    try {
      const virtioIommu = new VirtioIommu({ iommu: machine.iommu });
      machine.plug(virtioIommu, IOMMU_ADDRESS);
      // From now on: it is not behind itself.
      machine.#virtioIommu = virtioIommu;
      return machine;
    } catch (error) {
      await machine[Symbol.asyncDispose]();
      throw error;
    }
  }

  static async #withMemory(options: MachineOptions): Promise<Machine> {
    const { memory, log, rootPorts = 0 } = options;
    checkRootPorts(rootPorts);
    const shared = options.platform;
    if (shared !== undefined) checkShared(shared, options);
    const platform =
      shared ?? (await Platform.create({ memory, ...(log === undefined ? {} : { log }) }));
    try {
      const tenant = await platform.admit(options);
      try {
        return new Machine(options, platform, tenant);
      } catch (error) {
        await tenant[Symbol.asyncDispose]();
        throw error;
      }
    } catch (error) {
      if (shared === undefined) await platform[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** The PCI segment of its functions on the host. */
  get segment(): number {
    return this.#tenant.segment;
  }

  /** What the IOMMU goes by: descriptions of slots, as {@link keys} keeps them. All the platform's. */
  get slots(): SlotRegister {
    return this.platform.slots;
  }

  /** Every step of a slot's life: keys made or loaded, bound, rotated, revoked, destroyed. */
  get keys(): KeySlots {
    return this.platform.keys;
  }

  /** With the functions, domains and faults of all VMs of the platform. */
  get iommu(): Iommu {
    return this.platform.iommu;
  }

  /** Undefined where memory is plain. */
  get controller(): MemoryController | undefined {
    return this.platform.controller;
  }

  get mode(): 'sealed' | 'plain' {
    return this.sealed === undefined ? 'plain' : 'sealed';
  }

  /** What the guest programs, where the machine was made with one. */
  get virtioIommu(): VirtioIommu | undefined {
    return this.#virtioIommu;
  }

  /** In the order in which they were plugged in; a virtio-iommu is the first. */
  get functions(): readonly PluggedFunction[] {
    return this.#functions;
  }

  /**
   * Makes a key in an empty slot, active, for this VM or for another that the table should know of.
   * @throws MemoryError where the slot is taken
   */
  async addSlot(slot: KeySlot, vm: VmId, keyBits: 128 | 256 = 256): Promise<void> {
    await this.platform.addSlot(slot, vm, keyBits);
  }

  /**
   * Puts a function at an address of the guest's, on bus 0 or behind a root port, and lets it reach all of the VM's
   * memory, one to one, under the VM's slot: its device-table entry may be changed at any time. Behind a
   * virtio-iommu that holds until the guest's driver says else. The guest finds it at its boot.
   * @param socketPath where its server listens; in the run's directory unless told
   * @throws RangeError where there is no such place; Error where the place or the socket path is taken
   */
  plug(endpoint: PciEndpoint, address: RequesterId, socketPath?: string): PluggedFunction {
    if (this.#closed) throw new Error('expected a machine that is up, got one that has ended');
    const rid = this.#tenant.rid(address);
    this.expectFree(address);
    const name = formatRequesterId(rid);
    const { memory, regions } = this.#tenant.memory();
    const port = this.iommu.port(rid, memory);
    using undo = new DisposableStack();
    undo.defer(() => tellLeft(this.instruments, rid));
    const seen = surround(this.instruments, endpoint, rid);
    const server = VfioUserServer.listen({
      library: this.#parts.libvfioUser.library,
      socketPath: socketPath ?? this.platform.run.socket(name.replaceAll(/[:.]/g, '-')),
      // Outermost: instruments meet the function with the vectors that it has itself.
      endpoint: portOf(address) === undefined ? seen : MsiForMsix.around(seen),
      dma: port,
      busMaster: (enabled) => {
        port.busMaster = enabled;
      },
      onRegion: regions,
      log: this.log,
    });
    undo.use(server);
    const domain = new IdentityDomain(this.iommu.newDomainId());
    const { vm, slot } = this;
    const generation = this.slots.generation(slot);
    this.iommu.table.set(rid, { domain, vm, slot, generation, rights: 'read-write' });
    this.#virtioIommu?.addEndpoint(rid);
    const plugged = { machine: this, rid, address, endpoint, port, memory, server };
    this.#functions.push(plugged);
    undo.move();
    return plugged;
  }

  /** @throws RangeError where there is no such place; Error where it is taken, or kept for another */
  expectFree(address: RequesterId): void {
    const name = formatRequesterId(this.#tenant.rid(address));
    checkPlace(address, this.rootPorts);
    if (this.#reserved.has(address) || this.#functions.some((one) => one.address === address)) {
      throw new Error(`expected a free place for the function, got ${name}, which is taken`);
    }
  }

  /** Keeps a place for a function that is on its way there. @throws as {@link expectFree} */
  reserve(address: RequesterId): ReservedPlace {
    this.expectFree(address);
    this.#reserved.add(address);
    let kept = true;
    return {
      address,
      [Symbol.dispose]: () => {
        if (kept) this.#reserved.delete(address);
        kept = false;
      },
    };
  }

  /**
   * Pulls a function out: its VMM loses it, it is reset, and whatever it or an old port of it does from here on
   * is refused. A guest that has its driver bound to it sees it die.
   * @throws Error where it is not plugged in here
   */
  unplug(plugged: PluggedFunction): void {
    const at = this.#functions.indexOf(plugged);
    if (at < 0) {
      const place = formatRequesterId(plugged.rid);
      throw new Error(
        `expected a function of this VM, got that of ${place}, which is not plugged in`,
      );
    }
    this.#functions.splice(at, 1);
    // The reset ends what it has under way, before its entry goes: that it is pulled out is no fault of it.
    plugged.server.close();
    plugged.port.busMaster = false;
    this.#virtioIommu?.removeEndpoint(plugged.rid);
    this.iommu.table.delete(plugged.rid);
    tellLeft(this.instruments, plugged.rid);
  }

  /** Plugs a function in behind a root port while the guest runs. @throws as {@link hotPlugFunction} */
  hotPlug(
    endpoint: PciEndpoint,
    address: RequesterId,
    options?: HotPlugOptions,
  ): Promise<PluggedFunction> {
    return hotPlugFunction(this, endpoint, address, options);
  }

  /**
   * Pulls a function out of a guest that runs, which is asked to let go of it before. @returns whether it did
   * @throws as {@link unplug}
   */
  hotUnplug(plugged: PluggedFunction, options?: HotPlugOptions): Promise<boolean> {
    return hotUnplugFunction(plugged, options);
  }

  /** Gives the guest that runs a function that it has not got. @throws as {@link attachFunction} */
  attach(plugged: PluggedFunction, options?: HotPlugOptions): Promise<void> {
    return attachFunction(plugged, options);
  }

  /**
   * Makes pages of the VM shared: DRAM holds them in the clear, with their content or zeros. CPUs reach them as
   * before; a device does by IN_CLEAR in its mapping or its entry (docs/isolation.md). The guest may run.
   * @throws RangeError where they are not whole pages of RAM that the VMM has told of; ConversionError, and then
   *   a first part of them may be shared; Error where memory is plain
   */
  share(range: PageRange, options: ConversionOptions): Promise<void> {
    return this.pages.convert('share', range, options);
  }

  /** Makes pages private again: DRAM holds them under the VM's slot. As {@link share}. */
  unshare(range: PageRange, options: ConversionOptions): Promise<void> {
    return this.pages.convert('unshare', range, options);
  }

  /** What QEMU gets for memory. */
  get guestRam(): GuestRam {
    const { bytes } = this;
    return this.sealed === undefined
      ? { kind: 'memfd', bytes }
      : { kind: 'file', bytes, path: this.sealed.path };
  }

  /** What {@link boot} would start. @throws VmError, SetupError */
  plan(options: Omit<GuestOptions, 'memory'> = {}): Promise<GuestPlan> {
    const parts = this.#guestParts();
    return planGuest(parts, this.#withDevices(parts, options));
  }

  /** Boots the guest with the functions plugged so far. @throws as bootGuest; MemoryError */
  async boot(options: Omit<GuestOptions, 'memory'> = {}): Promise<VirtualMachine> {
    if (this.#guest !== undefined) {
      throw new Error('expected a machine whose guest is off, got one that has booted');
    }
    const signal = AbortSignal.any([
      ...(options.signal ? [options.signal] : []),
      this.platform.lost,
    ]);
    const parts = this.#guestParts();
    this.#guest = await bootGuest(parts, this.#withDevices(parts, { ...options, signal }));
    this.monitor.booted(this.#guest);
    return this.#guest;
  }

  /**
   * The guest first, then its devices, then its keys and its memory: each needs those after it. The other VMs
   * of its platform go on. A QEMU that somebody else has started should be gone: it loses its devices, and
   * gets SIGBUS at the next page of memory that it misses.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    // Each of them is ended, whatever the one before it says; the first error is the outcome.
    const errors: unknown[] = [];
    for (const end of [
      () => this.monitor[Symbol.dispose](),
      () => this.#guest?.stop(),
      ...this.#functions.map(
        ({ server }) =>
          () =>
            server.close(),
      ),
      () => this.platform.lost.removeEventListener('abort', this.#onLost),
      () => this.#virtioIommu?.close(),
      () => removeViot(this.platform.run.path, this.segment),
      () => this.#tenant[Symbol.asyncDispose](),
      ...(this.#alone ? [() => this.platform[Symbol.asyncDispose]()] : []),
      ...this.instruments.map((instrument) => () => instrument.end?.()),
    ]) {
      try {
        await end();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) throw errors[0];
  }

  #guestParts(): Parts {
    const parts = this.#parts;
    if ('qemu' in parts) return parts;
    throw new Error(
      'expected QEMU and a kernel for a guest, got a machine made with libvfio-user alone: ' +
        'give it what ensureParts() answers',
    );
  }

  #withDevices(parts: Parts, options: Omit<GuestOptions, 'memory'>): GuestOptions {
    return guestOptions(this, options, { parts, late: this.#lateFunctions });
  }
}
