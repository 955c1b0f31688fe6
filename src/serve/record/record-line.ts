/** The record's lines: what became of bindings, keys and DMA, for whoever looks afterwards. No key is in any. */
import type { DeviceTableEntry } from '../../iommu/device-table.ts';
import type { FaultRecord } from '../../iommu/fault-log.ts';
import type { AddressRange } from '../../iommu/slot-ranges.ts';
import { type AccessSlot, isInClear } from '../../keys/key-slot.ts';
import type { SlotDescription } from '../../keys/slot-lifecycle.ts';
import type { VmId } from '../../keys/vm-id.ts';
import type { PageConversion } from '../../machine/page-sharing.ts';
import type { Iova } from '../../pci/dma-port.ts';
import { formatRequesterId, type RequesterId } from '../../pci/requester-id.ts';

/** A key slot, or the access that goes through none. */
export type ShownSlot = number | 'in-the-clear';

/** One line of NDJSON. The first seven are in every one; what an event is not about is null. */
export interface RecordLine {
  /** ISO 8601, UTC, milliseconds. */
  readonly time: string;
  /**
   * `pages` have become shared or private; `mismatched` is a DMA that was done though it met pages of the other
   * kind.
   */
  readonly event: 'vm' | 'subsystem' | 'binding' | 'key' | 'pages' | 'refused' | 'mismatched';
  /** Of the function, on its VM's segment. */
  readonly rid: string | null;
  readonly vm: number | null;
  readonly slot: ShownSlot | null;
  /** Of the newest key that the slot has or had. */
  readonly generation: number | null;
  /** What happened, or why it was refused: words that never change. */
  readonly reason: string;
  /** Of a VM or a subsystem that came or went, or of the subsystem whose namespace was assigned. */
  readonly name?: string;
  /** Of a namespace that was assigned, to that function or to none. */
  readonly nsid?: number;
  readonly function?: number | null;
  /** Of a binding: what the device table now says. */
  readonly slotFrom?: 'device-table' | 'translation';
  readonly rights?: string;
  /** Of pages and of a range: the guest's address of the first byte; of pages, whether they kept their content. */
  readonly address?: string;
  readonly bytes?: number;
  readonly kept?: boolean;
  /** Of a DMA. */
  readonly sequence?: number;
  readonly direction?: 'read' | 'write';
  readonly iova?: string;
  readonly length?: number;
  readonly domain?: number | null;
}

export function shownSlot(slot: AccessSlot): ShownSlot {
  return isInClear(slot) ? 'in-the-clear' : slot;
}

/** The device's 64 bits, whatever its author's arithmetic made of them. */
function shownIova(iova: Iova): string {
  if (typeof iova === 'number' && !Number.isInteger(iova)) return String(iova);
  return `0x${BigInt.asUintN(64, BigInt(iova)).toString(16)}`;
}

/** A range of a function's addresses, and what data there goes through from now on. */
export interface RangeBinding {
  readonly vm: VmId;
  readonly range: AddressRange;
  readonly slot: AccessSlot;
  /** Of the slot; undefined where it is none. */
  readonly generation: number | undefined;
}

const nothing = { rid: null, vm: null, slot: null, generation: null } as const;

export function vmLine(
  now: Date,
  vm: number,
  name: string,
  reason: 'added' | 'removed',
): RecordLine {
  return { time: now.toISOString(), event: 'vm', ...nothing, vm, reason, name };
}

export function subsystemLine(
  now: Date,
  name: string,
  what:
    | { readonly reason: 'added' | 'removed' }
    | { readonly reason: 'assigned'; readonly nsid: number; readonly function: number | null },
): RecordLine {
  const { reason, ...more } = what;
  return { time: now.toISOString(), event: 'subsystem', ...nothing, reason, name, ...more };
}

export function dmaLine(fault: FaultRecord): RecordLine {
  const { sequence, direction, iova, length, domain = null } = fault;
  return {
    time: new Date(fault.time).toISOString(),
    event: fault.refused ? 'refused' : 'mismatched',
    rid: formatRequesterId(fault.rid),
    vm: fault.vm ?? null,
    slot: fault.slot === undefined ? null : shownSlot(fault.slot),
    generation: fault.generation ?? null,
    reason: fault.reason,
    ...{ sequence, direction, iova: shownIova(iova), length, domain },
  };
}

/**
 * A change of the device table; undefined where it changes nothing but the domain, as a guest's own driver does
 * many times a boot.
 */
export function bindingLine(
  now: Date,
  rid: RequesterId,
  entry: DeviceTableEntry | undefined,
  before: DeviceTableEntry | undefined,
  generation: (slot: AccessSlot) => number | null,
): RecordLine | undefined {
  const time = now.toISOString();
  const about = { time, event: 'binding', ...nothing, rid: formatRequesterId(rid) } as const;
  if (entry === undefined) {
    return { ...about, vm: before?.vm ?? null, reason: 'unbound' };
  }
  const { vm, slot, rights, slotFrom = 'device-table' } = entry;
  if (
    before !== undefined &&
    before.vm === vm &&
    before.slot === slot &&
    before.generation === entry.generation &&
    before.rights === rights &&
    (before.slotFrom ?? 'device-table') === slotFrom
  ) {
    return undefined;
  }
  return {
    ...{ ...about, vm },
    slot: slot === undefined ? null : shownSlot(slot),
    generation: slot === undefined ? null : generation(slot),
    reason: before === undefined ? 'bound' : 'changed',
    ...{ slotFrom, rights },
  };
}

/** What a function does in a range of addresses was bound to a slot, or to none. */
export function rangeLine(
  now: Date,
  rid: RequesterId,
  { vm, range, slot, generation }: RangeBinding,
): RecordLine {
  return {
    ...{ time: now.toISOString(), event: 'binding', rid: formatRequesterId(rid), vm },
    ...{ slot: shownSlot(slot), generation: generation ?? null, reason: 'range-bound' },
    slotFrom: 'translation',
    ...{ address: `0x${range.start.toString(16)}`, bytes: range.bytes },
  };
}

/** Pages that have become shared or private. @param generation of the VM's own slot */
export function pagesLine(
  now: Date,
  { vm, slot, to, range, kept }: PageConversion,
  generation: number,
): RecordLine {
  const reason = to === 'shared' ? 'shared' : 'unshared';
  return {
    ...{ time: now.toISOString(), event: 'pages', rid: null, vm, slot, generation, reason },
    ...{ address: `0x${range.address.toString(16)}`, bytes: range.bytes, kept },
  };
}

/** A step of a slot's life; undefined where the description is what it was. */
export function keyLine(
  now: Date,
  after: SlotDescription,
  before: SlotDescription,
): RecordLine | undefined {
  const reason = stepBetween(before, after);
  if (reason === undefined) return undefined;
  const { slot, generation } = after;
  const vm = after.vm ?? before.vm ?? null;
  return { time: now.toISOString(), event: 'key', ...nothing, vm, slot, generation, reason };
}

function stepBetween(before: SlotDescription, after: SlotDescription): string | undefined {
  if (after.state === before.state) {
    return after.vm !== before.vm ? 'bound' : undefined;
  }
  switch (after.state) {
    case 'loaded':
      return 'loaded';
    case 'rotating':
      return 'rotation-begun';
    case 'active':
      return before.state === 'rotating' ? 'rotation-done' : 'activated';
    case 'revoked':
      return 'revoked';
    case 'empty':
      return 'destroyed';
  }
}
