import type { TraceEnd, TraceEvent, TraceHeader } from './event.ts';
import { LineBuffer } from './line-buffer.ts';
import type { Recorded } from './recorded.ts';
import { type TraceWriter, traceLine } from './trace-writer.ts';

/** Recorded things that wait to be written: so many, or so many bytes of data, or so long. */
const WAITING_MAX = 256;
const WAITING_BYTES_MAX = 1024 * 1024;
const WAITING_MS_MAX = 20;

// Taken now, for tests may put a clock of their own in their place.
const now = performance.now.bind(performance);
const { setTimeout, clearTimeout } = globalThis;

export interface JournalOptions {
  /** How many events it takes; later ones are counted and dropped. */
  readonly eventsMax: number;
  /** Bytes of data (of DMA, say) that it keeps in memory. */
  readonly bytesMax: number;
  /** Where it goes; undefined keeps it in memory. */
  readonly writer: TraceWriter | undefined;
  readonly header: () => TraceHeader;
}

/** What was recorded, in order: in memory, where it is made into events when read, or in a file. */
export class Journal {
  readonly #options: JournalOptions;
  readonly #began = now();
  #waiting: Recorded[] = [];
  #waitingBytes = 0;
  readonly #events: TraceEvent[] = [];
  readonly #lines = new LineBuffer();
  #taken = 0;
  #bytes = 0;
  #dropped = 0;
  #headed = false;
  #ended = false;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: JournalOptions) {
    this.#options = options;
    if (options.writer !== undefined) openJournals.add(this);
  }

  /** The clock of what is recorded; milliseconds, exact to the nanosecond. */
  now(): number {
    return now();
  }

  /** Events that found no room. */
  get dropped(): number {
    return this.#dropped;
  }

  /** @throws Error where it goes to a file */
  get events(): readonly TraceEvent[] {
    const { writer } = this.#options;
    if (writer !== undefined) {
      throw new Error(
        `expected a trace in memory, got one that is written to ${writer.path}: read it with readTrace`,
      );
    }
    this.#tell((recorded, t) => this.#events.push(recorded.event(t)));
    return this.#events;
  }

  /** Answers false where there is no room, or the trace has ended. */
  add(recorded: Recorded): boolean {
    const { eventsMax, writer } = this.#options;
    if (this.#taken >= eventsMax || this.#ended) {
      this.#dropped++;
      return false;
    }
    if (recorded.held > 0 && !this.#hold(recorded.held)) return false;
    this.#taken++;
    this.#waiting.push(recorded);
    if (writer === undefined) return true;
    if (this.#waiting.length >= WAITING_MAX || this.#waitingBytes >= WAITING_BYTES_MAX) {
      this.flush();
    } else {
      this.#timer ??= setTimeout(() => this.flush(), WAITING_MS_MAX).unref();
    }
    return true;
  }

  /** Writes what waits, up to the first thing that is still going on. */
  flush(): void {
    const { writer, header } = this.#options;
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (writer === undefined) return;
    const lines = this.#lines;
    lines.clear();
    if (!this.#headed) lines.text(traceLine(header()));
    this.#headed = true;
    let told = 0;
    this.#tell((recorded, t) => {
      recorded.write(lines, t);
      told++;
    });
    if (lines.length === 0 || writer.write(lines.bytes)) return;
    // Nothing more will get there.
    this.#taken -= told;
    this.#dropped += told;
    this.#ended = true;
  }

  /** The last line of what is there now. */
  end(): TraceEnd {
    const events = this.#taken;
    return { t: this.#sinceBegan(now()), kind: 'end', events, dropped: this.#dropped };
  }

  /** Ends the file. @throws Error where not all of it could be written */
  close(): void {
    if (this.#ended && this.#options.writer?.failure === undefined) return;
    this.flush();
    this.#ended = true;
    openJournals.delete(this);
    const { writer } = this.#options;
    if (writer === undefined) return;
    // A process may end in the middle of an access.
    this.#dropped += this.#waiting.length;
    this.#taken -= this.#waiting.length;
    this.#waiting = [];
    writer.write(traceLine(this.end()));
    writer.close();
    if (writer.failure !== undefined) throw writer.failure;
  }

  #hold(bytes: number): boolean {
    this.#waitingBytes += bytes;
    if (this.#options.writer !== undefined) return true;
    this.#bytes += bytes;
    if (this.#bytes <= this.#options.bytesMax) return true;
    this.#bytes -= bytes;
    this.#dropped++;
    return false;
  }

  /** Hands over what waits, with its time, up to the first that is still going on. */
  #tell(take: (recorded: Recorded, t: number) => void): void {
    const waiting = this.#waiting;
    let told = 0;
    while (told < waiting.length) {
      const recorded = waiting[told] as Recorded;
      if (!recorded.over) break;
      take(recorded, this.#sinceBegan(recorded.at));
      told++;
    }
    // Also where a device does much in the middle of one access.
    if (told === 0) return;
    this.#waiting = told === waiting.length ? [] : waiting.slice(told);
    this.#waitingBytes = this.#waiting.reduce((sum, { held }) => sum + held, 0);
  }

  #sinceBegan(at: number): number {
    return Math.round((at - this.#began) * 1e6);
  }
}

/** Those whose files have no end yet. */
const openJournals = new Set<Journal>();

process.on('exit', () => {
  for (const journal of openJournals) {
    try {
      journal.close();
    } catch (error) {
      process.stderr.write(`sealbus: ${error instanceof Error ? error.message : String(error)}\n`);
    }
  }
});
