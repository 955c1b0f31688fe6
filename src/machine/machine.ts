import { VirtioIommu } from '../devices/iommu/virtio-iommu.ts';
import { prctl } from '../ffi/libc.ts';
import { IdentityDomain } from '../iommu/domain.ts';
import { Iommu } from '../iommu/iommu.ts';
import type { IommuDmaPort } from '../iommu/iommu-dma-port.ts';
import { type KeySlot, keySlot } from '../keys/key-slot.ts';
import { KeylessSlots } from '../keys/keyless-slots.ts';
import type { KeyOptions } from '../keys/slot-keeper.ts';
import { type VmId, vmId } from '../keys/vm-id.ts';
import { MemoryError } from '../memory/guest-memory.ts';
import { MemoryController } from '../memory/memory-controller.ts';
import { PlainMemory } from '../memory/plain-memory.ts';
import type { SealedMemory } from '../memory/sealed-memory.ts';
import { SealedRam } from '../memory/sealed-ram.ts';
import type { PciEndpoint } from '../pci/endpoint.ts';
import { formatRequesterId, parseRequesterId, type RequesterId } from '../pci/requester-id.ts';
import type { Parts } from '../setup/parts.ts';
import { traceOfEnvironment } from '../trace/environment.ts';
import type { RegionListener } from '../vfio-user/dma-regions.ts';
import { VfioUserServer } from '../vfio-user/server.ts';
import { bootGuest, type GuestOptions, type GuestPlan, planGuest } from '../vm/guest.ts';
import type { GuestDevice, GuestRam } from '../vm/qemu-command.ts';
import type { VirtualMachine } from '../vm/virtual-machine.ts';
import { functionPlaces, imageWithVirtioIommu, writeViot } from './guest-iommu.ts';
import { plainRegions, sealedRegions } from './guest-ram.ts';
import type { Instrument } from './instrument.ts';
import { KeySlots } from './key-slots.ts';
import { RunDirectory } from './run-directory.ts';
import { SlotRegister } from './slot-register.ts';

export interface MachineOptions {
  /** libvfio-user alone is enough for a machine that never boots a guest. */
  readonly parts: Parts | Pick<Parts, 'libvfioUser'>;
  /** How guest memory is held; `plain` encrypts nothing. */
  readonly memory: 'sealed' | 'plain';
  /** Size of guest memory, in whole MiB. */
  readonly bytes: number;
  readonly keyBits?: 128 | 256;
  /**
   * What a function's addresses are before it is behind anything else: `identity` (default) takes
   * them for guest-physical ones; with `virtio` there is a virtio-iommu at {@link IOMMU_ADDRESS},
   * which the guest's own driver programs, and every other function is behind it.
   */
  readonly iommu?: 'identity' | 'virtio';
  /**
   * With a virtio-iommu: the firmware's table names every place where a function may come, not only
   * those that have one. For guests that go on with other functions than they booted with.
   */
  readonly lateFunctions?: boolean;
  /**
   * What watches or disturbs it, from the device outwards: the last one stands next to the guest, and
   * sees what the ones before it made of a device's answers.
   */
  readonly instruments?: readonly Instrument[];
  /** What went wrong and could be lived with. Default: standard error. */
  readonly log?: (message: string) => void;
}

/** A function in its place: the requester ID, the port it got, and where QEMU finds it. */
export interface PluggedFunction {
  readonly rid: RequesterId;
  /** As it was plugged in, without what instruments put around it. */
  readonly endpoint: PciEndpoint;
  readonly port: IommuDmaPort;
  /** Guest memory as this function's VMM connection has it; for looking, past the IOMMU. */
  readonly memory: PlainMemory | SealedMemory;
  readonly server: VfioUserServer;
}

/** Where the virtio-iommu is plugged in: below the places that devices without one are given. */
export const IOMMU_ADDRESS = parseRequesterId('00:03.0');

const PR_SET_TIMERSLACK = 29;

const VM = vmId(1);
const SLOT = keySlot(1);

/**
 * One VM with its devices: guest memory, its key slot, the IOMMU before it, and the functions that
 * are plugged in. It starts what listens, so that QEMU comes last and goes first.
 */
export class Machine implements AsyncDisposable {
  readonly vm: VmId = VM;
  /** The VM's own slot, active. */
  readonly slot: KeySlot = SLOT;
  /** What the IOMMU goes by: descriptions of slots, as {@link keys} keeps them. */
  readonly slots: SlotRegister;
  /** Every step of a slot's life: keys made or loaded, bound, rotated, revoked, destroyed. */
  readonly keys: KeySlots;
  readonly iommu: Iommu;
  readonly bytes: number;
  /** Undefined where memory is plain. */
  readonly sealed: SealedRam | undefined;
  readonly controller: MemoryController | undefined;
  /** What watches or disturbs it, from the device outwards. */
  readonly instruments: readonly Instrument[];
  readonly #lateFunctions: boolean;
  #virtioIommu: VirtioIommu | undefined;
  readonly #parts: MachineOptions['parts'];
  readonly #run: RunDirectory;
  readonly #log: (message: string) => void;
  /** Aborted when the memory controller ends by itself. */
  readonly #lost: AbortSignal | undefined;
  readonly #functions: PluggedFunction[] = [];
  #guest: VirtualMachine | undefined;
  #closed = false;

  private constructor(
    options: MachineOptions,
    run: RunDirectory,
    { slots, keys }: { readonly slots: SlotRegister; readonly keys: KeySlots },
    memory: { controller: MemoryController; ram: SealedRam; lost: AbortSignal } | undefined,
  ) {
    this.#parts = options.parts;
    this.#run = run;
    this.#log = options.log ?? ((message) => process.stderr.write(`${message}\n`));
    this.bytes = options.bytes;
    this.slots = slots;
    this.keys = keys;
    this.iommu = new Iommu(slots);
    this.sealed = memory?.ram;
    this.controller = memory?.controller;
    this.#lost = memory?.lost;
    this.#lateFunctions = options.lateFunctions ?? false;
    // Outermost, whoever made this machine: `sealbus trace` records any command.
    const trace = traceOfEnvironment();
    this.instruments = [...(options.instruments ?? []), ...(trace === undefined ? [] : [trace])];
    for (const instrument of this.instruments) instrument.install?.(this);
    // A guest would go on with what is in the page cache until it misses, and die of SIGBUS then.
    this.#lost?.addEventListener('abort', () => this.#guest?.fail(this.#lost?.reason));
  }

  /** @throws FuseUnavailable where memory cannot be sealed here; MemoryError; RangeError */
  static async create(options: MachineOptions): Promise<Machine> {
    // Devices that poll pause for microseconds; by default the kernel makes 50 more of each.
    prctl(PR_SET_TIMERSLACK, 1);
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
    const run = RunDirectory.create();
    const slots = new SlotRegister();
    const log = options.log ?? ((message: string) => process.stderr.write(`${message}\n`));
    let controller: MemoryController | undefined;
    const lost = new AbortController();
    try {
      if (options.memory === 'plain') {
        const keys = new KeySlots(slots, new KeylessSlots());
        await fillSlot(keys, SLOT, { vm: VM, keyBits: options.keyBits });
        return new Machine(options, run, { slots, keys }, undefined);
      }
      controller = await MemoryController.start({
        directory: run.ram,
        onFailure: (message) => log(`memory controller: ${message}`),
        onLost: (error) => lost.abort(error),
      });
      const keys = new KeySlots(slots, controller.keys);
      await fillSlot(keys, SLOT, { vm: VM, keyBits: options.keyBits });
      const { bytes } = options;
      const ram = await SealedRam.create(controller, { name: 'vm1', vm: VM, slot: SLOT, bytes });
      return new Machine(options, run, { slots, keys }, { controller, ram, lost: lost.signal });
    } catch (error) {
      await controller?.stop();
      run[Symbol.dispose]();
      throw error;
    }
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
    if (this.slots.use(slot) !== 'empty') {
      throw new MemoryError(`expected an empty key slot, got slot ${slot}, which is taken`);
    }
    await fillSlot(this.keys, slot, { vm, keyBits });
  }

  /**
   * Puts a function at a requester ID on bus 0 and lets it reach all of the VM's memory, one to one,
   * under the VM's slot: its device-table entry may be changed at any time. Behind a virtio-iommu
   * that holds until the guest's driver says else.
   * @throws Error where the place is taken
   */
  plug(endpoint: PciEndpoint, rid: RequesterId): PluggedFunction {
    const name = formatRequesterId(rid);
    if (this.#functions.some((other) => other.rid === rid)) {
      throw new Error(`expected a free place for the function, got ${name}, which is taken`);
    }
    const { memory, regions } = this.#memory();
    const port = this.iommu.port(rid, memory);
    const seen = this.instruments.reduce(
      (inner, one) => one.around?.(inner, rid, endpoint) ?? inner,
      endpoint,
    );
    const server = VfioUserServer.listen({
      library: this.#parts.libvfioUser.library,
      socketPath: this.#run.socket(name.replaceAll(/[:.]/g, '-')),
      endpoint: seen,
      dma: port,
      busMaster: (enabled) => {
        port.busMaster = enabled;
      },
      onRegion: regions,
      log: this.#log,
    });
    const domain = new IdentityDomain(this.iommu.newDomainId());
    this.iommu.table.set(rid, { domain, vm: VM, slot: SLOT, rights: 'read-write' });
    this.#virtioIommu?.addEndpoint(rid);
    const plugged = { rid, endpoint, port, memory, server };
    this.#functions.push(plugged);
    return plugged;
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
    const ends = [options.signal, this.#lost].filter((signal) => signal !== undefined);
    const signal = AbortSignal.any(ends);
    const parts = this.#guestParts();
    this.#guest = await bootGuest(parts, this.#withDevices(parts, { ...options, signal }));
    return this.#guest;
  }

  /** The guest first, then its devices, then its memory: each needs those after it. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    // Each of them is ended, whatever the one before it says; the first error is the outcome.
    const errors: unknown[] = [];
    for (const end of [
      () => this.#guest?.stop(),
      ...this.#functions.map(
        ({ server }) =>
          () =>
            server.close(),
      ),
      () => this.sealed?.close(),
      () => this.controller?.stop(),
      () => this.#run[Symbol.dispose](),
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

  #memory(): { memory: PlainMemory | SealedMemory; regions: RegionListener } {
    if (this.sealed === undefined) {
      const memory = new PlainMemory();
      return { memory, regions: plainRegions(memory) };
    }
    const memory = this.sealed.memory();
    return { memory, regions: sealedRegions(memory) };
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
    const plugged = this.#functions.map(
      ({ rid, server }): GuestDevice => ({
        kind: 'vfio-user',
        address: rid,
        socket: server.socketPath,
      }),
    );
    const own = {
      ...options,
      memory: this.guestRam,
      devices: [...plugged, ...(options.devices ?? [])],
    };
    if (this.#virtioIommu === undefined) return own;
    const endpoints = this.#lateFunctions
      ? functionPlaces
      : this.#functions.map(({ rid }) => rid).filter((rid) => rid !== IOMMU_ADDRESS);
    const table = writeViot(this.#run.path, IOMMU_ADDRESS, endpoints);
    return {
      ...own,
      acpiTables: [table, ...(options.acpiTables ?? [])],
      image: imageWithVirtioIommu(parts.kernel, options.image),
    };
  }
}

/** An empty slot gets a random key and serves. */
async function fillSlot(keys: KeySlots, slot: KeySlot, options: KeyOptions): Promise<void> {
  await keys.generate(slot, options);
  await keys.activate(slot);
}
