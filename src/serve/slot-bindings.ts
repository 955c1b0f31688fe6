import type { DeviceTableEntry } from '../iommu/device-table.ts';
import { IdentityDomain } from '../iommu/domain.ts';
import { type AddressRange, type SlotRange, SlotRanges } from '../iommu/slot-ranges.ts';
import { type AccessSlot, IN_CLEAR, type KeySlot } from '../keys/key-slot.ts';
import type { Platform } from '../machine/platform.ts';
import { formatRequesterId, type RequesterId } from '../pci/requester-id.ts';
import type { Recorder } from './record/recorder.ts';
import type { ServedVm } from './served-vm.ts';

/** A key slot, or `clear`: no key, for shared pages. */
export type BoundSlot = KeySlot | 'clear';

/**
 * What functions of served VMs find their slots by. One way holds for a function: the device table, which names one
 * slot for all that it does; or a translation table that we make for it, which names one for each range.
 */
export class SlotBindings {
  readonly #platform: Platform;
  readonly #recorder: Recorder;
  /** Of functions whose slots come from the translation, and of some that have gone. */
  readonly #tables = new Map<RequesterId, SlotRanges>();

  constructor(platform: Platform, recorder: Recorder) {
    this.#platform = platform;
    this.#recorder = recorder;
  }

  /**
   * Everything that a function does goes through one slot, by the device table, from its next DMA on.
   * @throws Error where it is blocked, the slot is not its VM's, or the VM has no shared pages to be `clear` for
   */
  bind(rid: RequesterId, vm: ServedVm, slot: BoundSlot): void {
    const { iommu } = this.#platform;
    const entry = this.#entryOf(rid);
    const named = this.#named(rid, entry, vm, slot);
    // A table of ours names slots, which nobody may where the device table does.
    const domain =
      this.#tableOf(rid) === undefined ? entry.domain : new IdentityDomain(iommu.newDomainId());
    this.#tables.delete(rid);
    iommu.table.set(rid, { ...entry, domain, slotFrom: 'device-table', ...named });
  }

  /**
   * What a function does in a range goes through a slot, by the translation. The first time, all else stays under the
   * slot that it was bound to.
   * @throws as {@link bind}; RangeError where the range is not of whole pages, or is one too many; Error where the
   *   translations are the guest's to make
   */
  bindRange(rid: RequesterId, vm: ServedVm, range: AddressRange, slot: BoundSlot): void {
    const entry = this.#entryOf(rid);
    const named = this.#named(rid, entry, vm, slot);
    const table = this.#tableOf(rid) ?? this.#newTable(entry, vm);
    table.set({ ...range, ...named });
    this.#follow(rid, entry, table);
    this.#recorder.range(rid, { vm: entry.vm, range, ...named });
  }

  /**
   * A function finds its slot by the translation from here on: for all addresses the one that it was bound to.
   * @throws Error where it is blocked, or the translations are the guest's to make
   */
  byTranslation(rid: RequesterId, vm: ServedVm): void {
    if (this.#tableOf(rid) !== undefined) return;
    const entry = this.#entryOf(rid);
    this.#follow(rid, entry, this.#newTable(entry, vm));
  }

  /** All addresses with their slots; undefined where the device table names one. */
  ranges(rid: RequesterId): readonly SlotRange[] | undefined {
    return this.#tableOf(rid)?.ranges;
  }

  /** Its own, as long as its entry goes by it: a function that was moved or taken out has none. */
  #tableOf(rid: RequesterId): SlotRanges | undefined {
    const table = this.#tables.get(rid);
    if (table === undefined) return undefined;
    if (this.#platform.iommu.table.get(rid)?.domain === table.domain) return table;
    this.#tables.delete(rid);
    return undefined;
  }

  #newTable({ slot, generation }: DeviceTableEntry, { name, config }: ServedVm): SlotRanges {
    if (config.iommu === 'virtio') {
      throw new Error(
        `expected a VM whose translations are ours to make (iommu: identity), got ${name}, whose guest makes them`,
      );
    }
    if (slot === undefined) throw new Error('expected a slot in the device-table entry, got none');
    return new SlotRanges(this.#platform.iommu.hostDomain(), slot, generation);
  }

  #follow(rid: RequesterId, { vm, rights }: DeviceTableEntry, table: SlotRanges): void {
    if (this.#tables.get(rid) === table) return;
    for (const gone of [...this.#tables.keys()]) this.#tableOf(gone);
    this.#platform.iommu.table.set(rid, {
      ...{ domain: table.domain, vm, rights, slotFrom: 'translation' },
    });
    this.#tables.set(rid, table);
  }

  #entryOf(rid: RequesterId): DeviceTableEntry {
    const entry = this.#platform.iommu.table.get(rid);
    if (entry !== undefined) return entry;
    const name = formatRequesterId(rid);
    throw new Error(`expected a function that is bound, got ${name}, which is blocked`);
  }

  #named(
    rid: RequesterId,
    entry: DeviceTableEntry,
    { name, machine }: ServedVm,
    slot: BoundSlot,
  ): { readonly slot: AccessSlot; readonly generation: number | undefined } {
    if (slot === 'clear') {
      if (machine.mode === 'sealed') return { slot: IN_CLEAR, generation: undefined };
      throw new Error(`expected a VM with shared pages, got ${name}, whose memory is plain`);
    }
    const { state, vm, generation } = this.#platform.keys.describe(slot);
    if (vm === entry.vm) return { slot, generation };
    const whose = vm === undefined ? `is ${state}` : `is VM ${vm}'s`;
    throw new Error(
      `expected a slot of VM ${entry.vm}, whose function ${formatRequesterId(rid)} is, got slot ${slot}, which ${whose}`,
    );
  }
}
