import type { KeySlot } from '../keys/key-slot.ts';
import { serves } from '../keys/slot-lifecycle.ts';
import type { VmId } from '../keys/vm-id.ts';
import type { MemoryController } from '../memory/memory-controller.ts';
import { PlainMemory } from '../memory/plain-memory.ts';
import type { SealedMemory } from '../memory/sealed-memory.ts';
import { SealedRam } from '../memory/sealed-ram.ts';
import { formatRequesterId, type RequesterId } from '../pci/requester-id.ts';
import type { RegionListener } from '../vfio-user/dma-regions.ts';
import { plainRegions, sealedRegions } from './guest-ram.ts';
import type { Platform } from './platform.ts';

const SEGMENT = 0x10000;

interface Place {
  readonly vm: VmId;
  readonly slot: KeySlot;
  readonly bytes: number;
}

/** What one VM has of its platform, and gives back when it goes. */
export class Tenant implements AsyncDisposable {
  readonly vm: VmId;
  /** Its own slot: what the CPU's port goes through. */
  readonly slot: KeySlot;
  readonly bytes: number;
  /** The PCI segment of its functions on the host; the first VM's is 0. */
  readonly segment: number;
  /** Undefined where memory is plain. */
  readonly sealed: SealedRam | undefined;
  readonly #platform: Platform;
  readonly #left: () => void;
  readonly #stopWatching: () => void;
  #dropped: Promise<void> = Promise.resolve();
  #dropWaits = false;
  #gone: Promise<void> | undefined;

  /**
   * @param place with a slot that serves the VM
   * @param controller what seals its memory, if anything does
   * @param left told once it has gone
   * @throws MemoryError; RangeError for a size not in whole pages
   */
  static async settle(
    platform: Platform,
    place: Place,
    controller: MemoryController | undefined,
    left: () => void,
  ): Promise<Tenant> {
    const name = `vm${place.vm}`;
    const ram = controller && (await SealedRam.create(controller, { name, ...place }));
    return new Tenant(platform, place, ram, left);
  }

  private constructor(
    platform: Platform,
    { vm, slot, bytes }: Place,
    ram: SealedRam | undefined,
    left: () => void,
  ) {
    this.#platform = platform;
    this.vm = vm;
    this.slot = slot;
    this.bytes = bytes;
    this.segment = vm - 1;
    this.sealed = ram;
    this.#left = left;
    // That a slot is gone is said at once, and again when its keys are wiped: from then on nothing comes back.
    this.#stopWatching = platform.slots.onEntered((now, before) => {
      const wiped = now.state === before.state && !serves(now.state);
      if (now.slot === slot && wiped) this.#dropCache();
    });
  }

  /**
   * The requester ID of one of its functions, whose address is the guest's: on segment 0.
   * @throws RangeError where it is on another
   */
  rid(address: RequesterId): RequesterId {
    if (address >= SEGMENT) {
      throw new RangeError(
        `expected an address on segment 0, as the guest has it, got ${formatRequesterId(address)}`,
      );
    }
    return (this.segment * SEGMENT + address) as RequesterId;
  }

  /** A function's view of its memory, and what has that follow its VMM's mappings. */
  memory(): { readonly memory: PlainMemory | SealedMemory; readonly regions: RegionListener } {
    if (this.sealed === undefined) {
      const memory = new PlainMemory();
      return { memory, regions: plainRegions(memory) };
    }
    const memory = this.sealed.memory();
    const { map, unmap } = sealedRegions(memory);
    const regions: RegionListener = {
      map,
      unmap: (region) => {
        unmap(region);
        // A VMM that lets go of RAM leaves pages that it had mapped, which stayed in the cache when the keys went.
        if (!this.#hasKeys && memory.regions.all.length === 0) this.#dropCache();
      },
    };
    return { memory, regions };
  }

  get #hasKeys(): boolean {
    const { state, vm } = this.#platform.slots.describe(this.slot);
    return vm === this.vm && serves(state);
  }

  /**
   * Its device-table entries go, then the keys of every slot that is its, then its memory: nobody can read
   * what was in it any more. Its functions' servers should be closed, and its VMM be gone. The other VMs go on.
   */
  [Symbol.asyncDispose](): Promise<void> {
    this.#gone ??= this.#leave();
    return this.#gone;
  }

  /** In the background, one at a time. One that waits is enough for all that ask meanwhile. */
  #dropCache(): void {
    if (this.#dropWaits) return;
    this.#dropWaits = true;
    this.#dropped = this.#dropped
      .then(() => {
        this.#dropWaits = false;
        return this.sealed?.dropCache();
      })
      .catch((error: unknown) => {
        const words = error instanceof Error ? error.message : String(error);
        this.#platform.log(`VM ${this.vm}: its page cache could not be dropped: ${words}`);
      });
  }

  async #leave(): Promise<void> {
    const { iommu, keys, lost } = this.#platform;
    this.#stopWatching();
    iommu.forgetSegment(this.segment);
    for (const [rid, { vm }] of [...iommu.table.entries()]) {
      if (vm === this.vm) iommu.table.delete(rid);
    }
    try {
      for (const { slot, vm } of keys.list()) {
        if (vm !== this.vm) continue;
        // A controller that is gone took the keys with it.
        await keys.destroy(slot).catch((error: unknown) => {
          if (!lost.aborted) throw error;
        });
      }
      await this.#dropped;
      await this.sealed?.remove();
    } finally {
      this.#left();
    }
  }
}
