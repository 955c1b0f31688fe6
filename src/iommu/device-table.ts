import type { AccessSlot } from '../keys/key-slot.ts';
import type { VmId } from '../keys/vm-id.ts';
import { formatRequesterId, type RequesterId } from '../pci/requester-id.ts';
import type { Domain, Rights } from './domain.ts';
import { Watchers } from './watchers.ts';

/**
 * One entry: what a requester ID is allowed and whose key its data goes through
 * (AMD IOMMU specification 48882 §2.2.2).
 */
export type DeviceTableEntry = EntryOfFunction & (SlotFromDeviceTable | SlotFromTranslation);

interface EntryOfFunction {
  readonly domain: Domain;
  readonly vm: VmId;
  readonly rights: Rights;
}

/**
 * The table itself maps the function to its slot (patent claims 3 and 4). IN_CLEAR: all that it does is in the
 * clear, for shared pages.
 */
export interface SlotFromDeviceTable {
  readonly slotFrom?: 'device-table';
  readonly slot: AccessSlot;
  /**
   * The slot's generation when the function was bound to it. Once the slot has been destroyed and filled
   * again the binding is to a key that is gone, and the DMA is refused; a rotation leaves it right. Unless
   * given, the function goes by whatever key the slot has.
   */
  readonly generation?: number | undefined;
}

/** The slot sits in the domain's translation entries and comes back with each translation (claims 5 and 7). */
export interface SlotFromTranslation {
  readonly slotFrom: 'translation';
  readonly slot?: undefined;
  readonly generation?: undefined;
}

/** More functions than any VM here has; keeps a runaway caller from growing the table for ever. */
export const DEVICE_TABLE_ENTRIES = 65_536;

/** Told of an entry that was set or removed, and of what was there before. */
export type TableListener = (
  rid: RequesterId,
  entry: DeviceTableEntry | undefined,
  before: DeviceTableEntry | undefined,
) => void;

/** rid → entry. No entry means blocked. */
export class DeviceTable {
  readonly #entries = new Map<RequesterId, DeviceTableEntry>();
  readonly #watchers = new Watchers<Parameters<TableListener>>();
  #version = 0;

  /** Changes with every change of the table, so that a port may keep its entry between changes. */
  get version(): number {
    return this.#version;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** Sets or replaces an entry; holds from the next DMA on. @throws RangeError where it is full. */
  set(rid: RequesterId, entry: DeviceTableEntry): void {
    if (this.#entries.size >= DEVICE_TABLE_ENTRIES && !this.#entries.has(rid)) {
      throw new RangeError(
        `expected at most ${DEVICE_TABLE_ENTRIES} device-table entries, got one more for ` +
          `${formatRequesterId(rid)}: remove an entry first`,
      );
    }
    const before = this.#entries.get(rid);
    const kept = Object.freeze({ ...entry });
    this.#entries.set(rid, kept);
    this.#version++;
    this.#watchers.tell(rid, kept, before);
  }

  /** Removes an entry, which blocks the function. Answers whether there was one. */
  delete(rid: RequesterId): boolean {
    const before = this.#entries.get(rid);
    if (before === undefined) return false;
    this.#entries.delete(rid);
    this.#version++;
    this.#watchers.tell(rid, undefined, before);
    return true;
  }

  get(rid: RequesterId): DeviceTableEntry | undefined {
    return this.#entries.get(rid);
  }

  entries(): IterableIterator<[RequesterId, DeviceTableEntry]> {
    return this.#entries.entries();
  }

  /** Calls `listener` with each change from now on, which holds already. Answers how to stop that. */
  onChange(listener: TableListener): () => void {
    return this.#watchers.add(listener);
  }
}
