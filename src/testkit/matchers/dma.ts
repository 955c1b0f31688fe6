import type { FaultReason } from '../../pci/dma-port.ts';
import type { DmaEvent, FaultEvent } from '../../trace/event.ts';
import { hex } from '../../trace/event-text.ts';
import { type DeviceJournal, eventsOf } from '../device-journal.ts';
import { type MatcherResult, type Search, searchDevice } from './event-matcher.ts';

/** What is left out may be anything. */
export interface DmaWishes {
  /** As the device sees it: `read` reads guest memory. */
  readonly direction?: 'read' | 'write';
  readonly bytes?: number;
  /** Its first address as the device used it. */
  readonly iova?: number | bigint;
  /** A guest-physical address in it. */
  readonly gpa?: number | bigint;
  /** Whether all of it went to private pages, through a key slot. */
  readonly encrypted?: boolean;
  /** The slot that all of it went through. */
  readonly slot?: number;
  readonly times?: number;
}

export interface FaultWishes {
  readonly reason?: FaultReason;
  readonly direction?: 'read' | 'write';
  readonly iova?: number | bigint;
  readonly bytes?: number;
  readonly times?: number;
}

/** A DMA that was done. */
export function toHaveDma(device: unknown, wishes: DmaWishes = {}): MatcherResult {
  return searchDevice(device, (journal) => dmaSearch(journal, wishes));
}

/** A DMA that the IOMMU refused. */
export function toHaveFault(device: unknown, wishes: FaultWishes = {}): MatcherResult {
  return searchDevice(device, (journal) => faultSearch(journal, wishes));
}

function dmaSearch(journal: DeviceJournal, wishes: DmaWishes): Search<DmaEvent> {
  const { direction, bytes, iova, gpa, encrypted, slot, times } = wishes;
  return {
    done: 'made a DMA',
    wishes: [
      ...(direction === undefined ? [] : [`a ${direction}`]),
      ...(bytes === undefined ? [] : [`of ${bytes} bytes`]),
      ...(iova === undefined ? [] : [`at IOVA ${hex(iova)}`]),
      ...(gpa === undefined ? [] : [`that reached ${hex(gpa)}`]),
      ...(encrypted === undefined ? [] : [encrypted ? 'encrypted' : 'not encrypted']),
      ...(slot === undefined ? [] : [`through slot ${slot}`]),
      ...(encrypted === true && journal.machine?.mode === 'plain'
        ? ['though this machine’s memory is plain: nothing is encrypted there']
        : []),
    ],
    times,
    plural: 'DMAs',
    events: eventsOf(journal, 'dma'),
    matches: (event) =>
      (direction === undefined || event.direction === direction) &&
      (bytes === undefined || event.bytes === bytes) &&
      (iova === undefined || BigInt(event.iova) === BigInt(iova)) &&
      (gpa === undefined || reaches(event, BigInt(gpa))) &&
      (encrypted === undefined || event.pieces.every((piece) => piece.private) === encrypted) &&
      (slot === undefined || event.pieces.every((piece) => piece.slot === slot)),
    show: showDma,
  };
}

function faultSearch(journal: DeviceJournal, wishes: FaultWishes): Search<FaultEvent> {
  const { reason, direction, iova, bytes, times } = wishes;
  return {
    done: 'had a DMA refused',
    wishes: [
      ...(reason === undefined ? [] : [`as ${reason}`]),
      ...(direction === undefined ? [] : [`a ${direction}`]),
      ...(bytes === undefined ? [] : [`of ${bytes} bytes`]),
      ...(iova === undefined ? [] : [`at IOVA ${hex(iova)}`]),
    ],
    times,
    plural: 'faults',
    events: eventsOf(journal, 'fault'),
    matches: (event) =>
      (reason === undefined || event.reason === reason) &&
      (direction === undefined || event.direction === direction) &&
      (bytes === undefined || event.bytes === bytes) &&
      (iova === undefined || BigInt(event.iova) === BigInt(iova)),
    show: (event) =>
      `${event.direction} of ${event.bytes} bytes at ${event.iova}: ${event.reason}` +
      `${event.slot === undefined ? '' : `, slot ${event.slot}`}`,
  };
}

function reaches({ pieces }: DmaEvent, address: bigint): boolean {
  return pieces.some(({ gpa, bytes }) => {
    const start = BigInt(gpa);
    return address >= start && address < start + BigInt(bytes);
  });
}

function showDma({ direction, bytes, iova, pieces }: DmaEvent): string {
  const places = pieces.map(
    (piece) =>
      `${piece.gpa} (${piece.private ? `slot ${piece.slot}` : 'not encrypted'}` +
      `${piece.crosses ? `, its pages are ${piece.private ? 'shared' : 'private'}` : ''})`,
  );
  return `${direction} of ${bytes} bytes at ${iova}, to ${places.join(', ')}`;
}
