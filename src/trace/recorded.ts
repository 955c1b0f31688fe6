/**
 * What was seen, kept as it was seen. To make one of these is all that happens on the way of an
 * access; names, hexadecimal digits and fields come when somebody reads the trace, or it is written.
 */
import type { DmaDone, DmaPiece } from '../iommu/dma-watch.ts';
import { isInClear } from '../keys/key-slot.ts';
import { fieldValue } from './access-line.ts';
import type { DmaEvent, RegisterEvent, TraceEvent } from './event.ts';
import { hex, ridText } from './event-text.ts';
import type { LineBuffer } from './line-buffer.ts';
import type { RegisterNames } from './register-names.ts';
import { traceLine } from './trace-writer.ts';

export interface Recorded {
  /** On the trace's clock; milliseconds. */
  readonly at: number;
  /** False while what it tells of is still going on. */
  readonly over: boolean;
  /** Bytes of data that it holds. */
  readonly held: number;
  /** @param t nanoseconds since the trace began */
  event(t: number): TraceEvent;
  /** Adds {@link event} as a line of JSON. */
  write(out: LineBuffer, t: number): void;
}

/** An event without its time, each kind by itself. */
export type Untimed<E extends TraceEvent = TraceEvent> = E extends TraceEvent
  ? Omit<E, 't'>
  : never;

/** What is rare enough to be an event from the start. */
export class RecordedEvent implements Recorded {
  readonly at: number;
  readonly over = true;
  readonly held = 0;
  readonly #event: Untimed;

  constructor(at: number, event: Untimed) {
    this.at = at;
    this.#event = event;
  }

  event(t: number): TraceEvent {
    return { t, ...this.#event } as TraceEvent;
  }

  write(out: LineBuffer, t: number): void {
    out.text(traceLine(this.event(t)));
  }
}

/** A guest's access to a BAR. What it led to is recorded after it, also before its answer is there. */
export class RecordedAccess implements Recorded {
  readonly at: number;
  over = false;
  /** It came in the same turn of the event loop as the function's access before it. */
  sameTurn = false;
  readonly held: number;
  readonly #names: RegisterNames;
  readonly #direction: 'read' | 'write';
  readonly #bar: number;
  readonly #offset: number;
  readonly #width: number;
  /** Two halves of a value of up to 8 bytes, signed as they come. */
  #low = 0;
  #high = 0;
  #bytes: Uint8Array | undefined;
  #end = 0;

  constructor(
    at: number,
    names: RegisterNames,
    direction: 'read' | 'write',
    bar: number,
    offset: number,
    width: number,
  ) {
    this.at = at;
    this.#names = names;
    this.#direction = direction;
    this.#bar = bar;
    this.#offset = offset;
    this.#width = width;
    this.held = width > 8 ? width : 0;
  }

  /** The value: what was written, or what came back. */
  carries(bytes: Uint8Array): void {
    const { length } = bytes;
    if (length === 4) {
      this.#low = word(bytes, 0);
    } else if (length <= 8) {
      this.#low = word(bytes, 0);
      this.#high = word(bytes, 4);
    } else {
      this.#bytes = bytes.slice();
    }
  }

  /** The device has answered. */
  ends(at: number): void {
    this.#end = at;
    this.over = true;
  }

  event(t: number): RegisterEvent {
    const { rid } = this.#names;
    const { register, fields } = this.#names.of(this.#bar, this.#offset, this.#width);
    return {
      t,
      kind: 'register',
      rid,
      direction: this.#direction,
      bar: this.#bar,
      offset: this.#offset,
      width: this.#width,
      value: this.#value(),
      ...(register === undefined ? {} : { register }),
      ...(fields.length === 0
        ? {}
        : {
            fields: Object.fromEntries(
              fields.map((field) => [field.name, fieldValue(field, this.#low, this.#high)]),
            ),
          }),
      took: this.#took,
      ...(this.sameTurn ? { sameTurn: true } : {}),
    };
  }

  write(out: LineBuffer, t: number): void {
    if (this.#bytes !== undefined) {
      out.text(traceLine(this.event(t)));
      return;
    }
    const line = this.#names.line(this.#bar, this.#offset, this.#width);
    line.write(out, t, this.#direction, this.#low, this.#high, this.#took, this.sameTurn);
  }

  get #took(): number {
    return Math.round((this.#end - this.at) * 1e6);
  }

  #value(): string {
    if (this.#bytes !== undefined) return Buffer.from(this.#bytes).toString('hex');
    const low = (this.#low >>> 0).toString(16);
    if (this.#high === 0) return `0x${low}`;
    return `0x${(this.#high >>> 0).toString(16)}${low.padStart(8, '0')}`;
  }
}

/** A DMA that was done. */
export class RecordedDma implements Recorded {
  readonly at: number;
  readonly over = true;
  readonly held: number;
  readonly #dma: DmaDone;
  readonly #bytes: number;
  readonly #private: boolean;
  readonly #data: Uint8Array | undefined;

  /** @param dataBytesMax so many of its bytes are kept */
  constructor(at: number, dma: DmaDone, isPrivate: boolean, dataBytesMax: number) {
    this.at = at;
    const pieces: DmaPiece[] = [];
    for (let i = dma.first; i < dma.end; i++) {
      const { address, length, slot, crosses } = dma.pieces[i] as DmaPiece;
      pieces.push({ address, length, slot, crosses });
    }
    const { rid, direction, iova, bytes } = dma;
    this.#dma = { rid, direction, iova, bytes: NO_BYTES, pieces, first: 0, end: pieces.length };
    this.#bytes = bytes.length;
    this.#private = isPrivate;
    this.#data = dataBytesMax > 0 ? bytes.slice(0, dataBytesMax) : undefined;
    this.held = this.#data?.length ?? 0;
  }

  event(t: number): DmaEvent {
    const { rid, direction, iova, pieces } = this.#dma;
    return {
      t,
      kind: 'dma',
      rid: ridText(rid),
      direction,
      iova: hex(iova),
      bytes: this.#bytes,
      pieces: pieces.map(({ address, length, slot, crosses }) => ({
        ...{ gpa: hex(address), bytes: length },
        ...(isInClear(slot) ? { private: false } : { slot, private: this.#private }),
        ...(crosses ? { crosses } : {}),
      })),
      ...(this.#data === undefined ? {} : { data: Buffer.from(this.#data).toString('hex') }),
    };
  }

  write(out: LineBuffer, t: number): void {
    out.text(traceLine(this.event(t)));
  }
}

const NO_BYTES = new Uint8Array(0);

/** Four bytes, lowest first; those beyond the end are 0. */
function word(bytes: Uint8Array, at: number): number {
  return (
    (bytes[at] ?? 0) |
    ((bytes[at + 1] ?? 0) << 8) |
    ((bytes[at + 2] ?? 0) << 16) |
    ((bytes[at + 3] ?? 0) << 24)
  );
}
