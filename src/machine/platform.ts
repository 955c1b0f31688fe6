import { setMaxListeners } from 'node:events';
import { prctl } from '../ffi/libc.ts';
import { Iommu } from '../iommu/iommu.ts';
import { Watchers } from '../iommu/watchers.ts';
import { KEY_SLOTS, type KeySlot, keySlot } from '../keys/key-slot.ts';
import { KeylessSlots } from '../keys/keyless-slots.ts';
import type { KeyBits } from '../keys/slot-lifecycle.ts';
import { VM_ID_MAX, type VmId, vmId } from '../keys/vm-id.ts';
import { MemoryError } from '../memory/guest-memory.ts';
import { MemoryController } from '../memory/memory-controller.ts';
import { KeySlots } from './key-slots.ts';
import type { Machine, PluggedFunction } from './machine.ts';
import { type MoveOptions, moveFunction } from './move-function.ts';
import type { PageConversion } from './page-sharing.ts';
import { RunDirectory } from './run-directory.ts';
import { SlotRegister } from './slot-register.ts';
import { Tenant } from './tenant.ts';

export interface PlatformOptions {
  /** `sealed`: it has a memory controller, which seals the memory of VMs. `plain`: nothing is encrypted. */
  readonly memory: 'sealed' | 'plain';
  /** What went wrong and could be lived with. Default: standard error. */
  readonly log?: (message: string) => void;
}

/** What a VM wants of its platform. */
export interface TenantOptions {
  /** Size of guest memory, in whole MiB. */
  readonly bytes: number;
  /** That of the platform unless told. A sealed platform may have VMs whose memory is plain. */
  readonly memory?: 'sealed' | 'plain' | undefined;
  /** The next free one from 1 on unless told. */
  readonly slot?: KeySlot | undefined;
  readonly keyBits?: KeyBits | undefined;
  /** A descriptor that holds the key (see KeySlots.load); a random key where there is none. It stays the caller's. */
  readonly keyDescriptor?: number | undefined;
}

const PR_SET_TIMERSLACK = 29;

/**
 * What all VMs of a process stand on: one memory controller, one key table, one IOMMU, one run directory.
 * VMs come and go on it without disturbing each other: each has a number, a key slot, a memory and a PCI
 * segment of its own, so that no requester ID is ever two VMs'.
 */
export class Platform implements AsyncDisposable {
  /** What the IOMMU goes by: descriptions of slots, as {@link keys} keeps them. */
  readonly slots: SlotRegister;
  /** Every step of a slot's life: keys made or loaded, bound, rotated, revoked, destroyed. */
  readonly keys: KeySlots;
  readonly iommu: Iommu;
  /** Who wants to hear of pages that have become shared or private, of any VM. */
  readonly conversions = new Watchers<[conversion: PageConversion]>();
  readonly run: RunDirectory;
  /** Undefined where memory is plain. */
  readonly controller: MemoryController | undefined;
  /** Aborted when the memory controller ends by itself: every VM is lost with it. */
  readonly lost: AbortSignal;
  readonly log: (message: string) => void;
  readonly #tenants = new Set<Tenant>();
  /** Given to VMs that are still being made. */
  readonly #promised = new Set<KeySlot>();
  #nextVm = 1;
  #closed = false;

  private constructor(parts: {
    readonly run: RunDirectory;
    readonly controller: MemoryController | undefined;
    readonly lost: AbortSignal;
    readonly log: (message: string) => void;
  }) {
    this.run = parts.run;
    this.controller = parts.controller;
    this.lost = parts.lost;
    this.log = parts.log;
    this.slots = new SlotRegister();
    this.keys = new KeySlots(this.slots, parts.controller?.keys ?? new KeylessSlots());
    this.iommu = new Iommu(this.slots);
  }

  /** @throws FuseUnavailable where memory cannot be sealed here; MemoryError */
  static async create(options: PlatformOptions): Promise<Platform> {
    // Devices that poll pause for microseconds; by default the kernel makes 50 more of each.
    prctl(PR_SET_TIMERSLACK, 1);
    const log = options.log ?? ((message: string) => process.stderr.write(`${message}\n`));
    const run = RunDirectory.create();
    const ending = new AbortController();
    const lost = ending.signal;
    // Each VM listens.
    setMaxListeners(0, lost);
    if (options.memory === 'plain') return new Platform({ run, controller: undefined, lost, log });
    try {
      const controller = await MemoryController.start({
        directory: run.ram,
        onFailure: (message) => log(`memory controller: ${message}`),
        onLost: (error) => ending.abort(error),
      });
      return new Platform({ run, controller, lost, log });
    } catch (error) {
      run[Symbol.dispose]();
      throw error;
    }
  }

  get mode(): 'sealed' | 'plain' {
    return this.controller === undefined ? 'plain' : 'sealed';
  }

  /** In the order in which they came. */
  get tenants(): ReadonlySet<Tenant> {
    return this.#tenants;
  }

  /**
   * A place for one more VM: the next number and segment, a key slot that serves it, and its memory.
   * @throws MemoryError where no slot is free, or the one asked for is taken, or there were 65,535 VMs;
   *   KeySlotError; as KeySlots.load for a key from a descriptor; RangeError for a size not in whole pages
   */
  async admit(options: TenantOptions): Promise<Tenant> {
    if (this.#closed)
      throw new MemoryError('expected a platform that is up, got one that has ended');
    const vm = this.#newVm();
    const slot = this.#freeSlot(options.slot);
    this.#promised.add(slot);
    try {
      await this.#fill(slot, vm, options);
      const left = () => this.#tenants.delete(tenant);
      const place = { vm, slot, bytes: options.bytes };
      const controller = options.memory === 'plain' ? undefined : this.controller;
      const tenant = await Tenant.settle(this, place, controller, left);
      this.#tenants.add(tenant);
      return tenant;
    } catch (error) {
      await this.keys.destroy(slot).catch(() => {}); // the first error is the outcome
      throw error;
    } finally {
      this.#promised.delete(slot);
    }
  }

  /**
   * Makes a key in an empty slot, active, for a VM of this platform or a number that the table should know of.
   * @throws MemoryError where the slot is taken
   */
  async addSlot(slot: KeySlot, vm: VmId, keyBits: KeyBits = 256): Promise<void> {
    this.#freeSlot(slot);
    await this.#fill(slot, vm, { keyBits });
  }

  /**
   * Takes a function from its VM and gives it to another, with nothing of the first one in it.
   * @throws as {@link moveFunction}
   */
  move(plugged: PluggedFunction, to: Machine, options?: MoveOptions): Promise<PluggedFunction> {
    return moveFunction(plugged, to, options);
  }

  /** Whoever is left on it goes first. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    try {
      for (const tenant of [...this.#tenants]) await tenant[Symbol.asyncDispose]();
    } finally {
      try {
        await this.controller?.stop();
      } finally {
        this.run[Symbol.dispose]();
      }
    }
  }

  async #fill(
    slot: KeySlot,
    vm: VmId,
    { keyBits, keyDescriptor }: Pick<TenantOptions, 'keyBits' | 'keyDescriptor'>,
  ): Promise<void> {
    if (keyDescriptor === undefined) await this.keys.generate(slot, { vm, keyBits });
    else await this.keys.load(slot, keyDescriptor, { vm, keyBits });
    await this.keys.activate(slot);
  }

  /** Never given twice, as a segment is not either. */
  #newVm(): VmId {
    if (this.#nextVm > VM_ID_MAX) {
      throw new MemoryError(
        `expected at most ${VM_ID_MAX} VMs in the life of a process, got one more: start another`,
      );
    }
    return vmId(this.#nextVm++);
  }

  #freeSlot(wanted: KeySlot | undefined): KeySlot {
    const free = (slot: KeySlot) => this.slots.use(slot) === 'empty' && !this.#promised.has(slot);
    if (wanted !== undefined) {
      if (free(wanted)) return wanted;
      throw new MemoryError(`expected an empty key slot, got slot ${wanted}, which is taken`);
    }
    for (let index = 1; index < KEY_SLOTS; index++) {
      if (free(keySlot(index))) return keySlot(index);
    }
    throw new MemoryError(
      `expected a free key slot for a VM, got ${KEY_SLOTS - 1} that are taken: destroy one first`,
    );
  }
}
