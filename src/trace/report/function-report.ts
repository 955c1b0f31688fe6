import type { FaultEvent, FunctionEvent, InterruptEvent, TraceEvent } from '../event.ts';
import { AfterReset, type LateDma } from './after-reset.ts';
import { type Doorbell, Doorbells } from './doorbells.ts';
import { type RegisterUse, RegisterUses, type UnmodelledUse } from './register-use.ts';
import { type Spin, Spins } from './spins.ts';

/** What a trace says of one function. */
export interface FunctionReport {
  readonly rid: string;
  readonly name: string;
  readonly registers: readonly RegisterUse[];
  readonly unmodelled: readonly UnmodelledUse[];
  readonly spins: readonly Spin[];
  readonly doorbellsWithoutWork: readonly Doorbell[];
  readonly dma: {
    readonly reads: number;
    readonly readBytes: number;
    readonly writes: number;
    readonly writtenBytes: number;
  };
  readonly dmaAfterReset: { readonly count: number; readonly examples: readonly LateDma[] };
  readonly refusedDma: readonly RefusedDma[];
  readonly interrupts: {
    /** Messages by vector. */
    readonly messages: Readonly<Record<string, number>>;
    /** How often INTA# rose. */
    readonly intx: number;
    /** Whether INTA# was up at the end. */
    readonly intxLeftUp: boolean;
  };
  /** By cause. */
  readonly resets: Readonly<Record<string, number>>;
  readonly deviceErrors: { readonly count: number; readonly first?: string };
  /** Faults on demand by name. */
  readonly injected: Readonly<Record<string, number>>;
}

/** Alike ones together. */
export interface RefusedDma {
  readonly reason: string;
  readonly direction: 'read' | 'write';
  readonly count: number;
  readonly first: { readonly t: number; readonly iova: string; readonly bytes: number };
}

/** Takes the events of one function, in order. */
export class FunctionFindings {
  readonly #rid: string;
  readonly #name: string;
  readonly #uses: RegisterUses;
  readonly #spins = new Spins();
  readonly #doorbells: Doorbells;
  readonly #afterReset = new AfterReset();
  readonly #dma = { reads: 0, readBytes: 0, writes: 0, writtenBytes: 0 };
  readonly #refused = new Map<string, RefusedDma & { count: number }>();
  readonly #messages: Record<string, number> = {};
  #intx = 0;
  #intxUp = false;
  readonly #resets: Record<string, number> = {};
  readonly #errors: string[] = [];
  #errorCount = 0;
  readonly #injected: Record<string, number> = {};

  constructor(about: Pick<FunctionEvent, 'rid' | 'name' | 'bars'>) {
    this.#rid = about.rid;
    this.#name = about.name;
    this.#uses = new RegisterUses(about);
    this.#doorbells = new Doorbells(about.bars.flatMap(({ registers }) => registers));
  }

  take(event: TraceEvent): void {
    switch (event.kind) {
      case 'register':
        this.#uses.access(event);
        this.#spins.access(event);
        this.#doorbells.access(event);
        this.#afterReset.touched();
        return;
      case 'unmodelled':
        this.#uses.unmodelled(event);
        return;
      case 'dma':
        if (event.direction === 'read') {
          this.#dma.reads++;
          this.#dma.readBytes += event.bytes;
        } else {
          this.#dma.writes++;
          this.#dma.writtenBytes += event.bytes;
        }
        this.#doorbells.worked();
        this.#afterReset.dma(event);
        return;
      case 'fault':
        this.#refuse(event);
        this.#doorbells.worked();
        this.#afterReset.dma(event);
        return;
      case 'interrupt':
        this.#interrupt(event);
        this.#doorbells.worked();
        return;
      case 'reset':
        this.#resets[event.cause] = (this.#resets[event.cause] ?? 0) + 1;
        this.#doorbells.over(event.t);
        this.#afterReset.reset(event);
        return;
      case 'device-error':
        this.#errorCount++;
        if (this.#errors.length === 0) this.#errors.push(event.message);
        return;
      case 'injected':
        this.#injected[event.fault] = (this.#injected[event.fault] ?? 0) + 1;
        return;
      default:
        return;
    }
  }

  /** @param t when the trace ended */
  report(t: number): FunctionReport {
    this.#doorbells.over(t);
    const [first] = this.#errors;
    return {
      rid: this.#rid,
      name: this.#name,
      registers: this.#uses.registers,
      unmodelled: this.#uses.unmodelledUses,
      spins: this.#spins.spins,
      doorbellsWithoutWork: this.#doorbells.idle,
      dma: this.#dma,
      dmaAfterReset: { count: this.#afterReset.count, examples: this.#afterReset.examples },
      refusedDma: [...this.#refused.values()].sort((a, b) => b.count - a.count),
      interrupts: { messages: this.#messages, intx: this.#intx, intxLeftUp: this.#intxUp },
      resets: this.#resets,
      deviceErrors: { count: this.#errorCount, ...(first === undefined ? {} : { first }) },
      injected: this.#injected,
    };
  }

  #interrupt({ how, vector = 0, asserted = false }: InterruptEvent): void {
    if (how !== 'intx') {
      this.#messages[vector] = (this.#messages[vector] ?? 0) + 1;
      return;
    }
    if (asserted) this.#intx++;
    this.#intxUp = asserted;
  }

  #refuse({ reason, direction, t, iova, bytes }: FaultEvent): void {
    const key = `${reason} ${direction}`;
    const known = this.#refused.get(key);
    if (known !== undefined) known.count++;
    else this.#refused.set(key, { reason, direction, count: 1, first: { t, iova, bytes } });
  }
}
