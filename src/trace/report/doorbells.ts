/**
 * Doorbells without work, from a trace alone.
 *
 * A *doorbell* is a register whose writes mostly (in half of the cases or more) make the function do a
 * DMA, have one refused, or move an interrupt before the driver writes to it again at any place; or one
 * that is write-only. Writes to one register within a millisecond with nothing between them count as one
 * ring, for a device may serve them together.
 *
 * A ring led to *nothing* where, until the driver wrote that register once more, the function made no
 * DMA, moved no interrupt and showed no register that had changed. The last ring, before a reset or the
 * trace's end, counts only where the register is known to make the function work, and 10 ms passed.
 */
import type { RegisterEvent, TracedRegister } from '../event.ts';
import { placeName } from './spins.ts';

const TOGETHER_NS = 1e6;
const PATIENCE_NS = 10e6;
const EXAMPLES_MAX = 10;

export interface Doorbell {
  readonly register: string;
  readonly rings: number;
  /** Rings that led to nothing. */
  readonly idle: number;
  /** The first of those: nanoseconds since the trace began, and what was written. */
  readonly examples: readonly { readonly t: number; readonly value: string }[];
}

interface Ring {
  readonly t: number;
  readonly value: string;
  last: number;
  /** The function did something, or a register had changed. */
  answered: boolean;
  /** It did so before the driver wrote anything else. */
  atOnce: boolean;
}

interface Bell {
  rings: number;
  atOnce: number;
  idle: number;
  readonly examples: { readonly t: number; readonly value: string }[];
  /** The one that is not settled yet. */
  ring: Ring | undefined;
  /** Unanswered until a reset or the end: they count for a doorbell that is known to work. */
  readonly last: Ring[];
}

/** The doorbells of one function. */
export class Doorbells {
  readonly #bells = new Map<string, Bell>();
  /** What the guest last read or wrote, by place. */
  readonly #known = new Map<string, string>();
  readonly #writeOnly: ReadonlySet<string>;
  /** The register that was written last. */
  #written: Bell | undefined;

  constructor(registers: readonly TracedRegister[]) {
    const named = registers.filter(({ access }) => access === 'write-only');
    this.#writeOnly = new Set(named.map(({ name }) => name));
  }

  access(event: RegisterEvent): void {
    const place = placeName(event);
    const before = this.#known.get(place);
    this.#known.set(place, event.value);
    if (event.direction === 'read') {
      if (before !== undefined && before !== event.value) this.#answer(false);
      return;
    }
    let bell = this.#bells.get(place);
    if (bell === undefined) {
      bell = { rings: 0, atOnce: 0, idle: 0, examples: [], ring: undefined, last: [] };
      this.#bells.set(place, bell);
    }
    this.#written = bell;
    const { ring } = bell;
    if (ring !== undefined && !ring.answered && event.t - ring.last < TOGETHER_NS) {
      ring.last = event.t;
      return;
    }
    settle(bell);
    const { t, value } = event;
    bell.ring = { t, value, last: t, answered: false, atOnce: false };
  }

  /** The function did something of its own: a DMA, done or refused, or an interrupt. */
  worked(): void {
    this.#answer(true);
  }

  /** A reset, or the end of the trace. */
  over(t: number): void {
    for (const bell of this.#bells.values()) {
      const { ring } = bell;
      bell.ring = undefined;
      if (ring === undefined) continue;
      if (!ring.answered && t - ring.last >= PATIENCE_NS) bell.last.push(ring);
      else if (ring.answered) count(bell, ring);
    }
    this.#known.clear();
    this.#written = undefined;
  }

  /** Those that were rung in vain at least once, to be asked for once all is {@link over}. */
  get idle(): readonly Doorbell[] {
    return [...this.#bells].flatMap(([register, bell]) => {
      const doorbell = this.#judge(register, bell);
      return doorbell === undefined || doorbell.idle === 0 ? [] : [doorbell];
    });
  }

  #judge(register: string, bell: Bell): Doorbell | undefined {
    const works = bell.atOnce > 0 && bell.atOnce * 2 >= bell.rings;
    if (!works && !this.#writeOnly.has(register.replace(/\[\d+\]$/, ''))) return undefined;
    const last = works ? bell.last : [];
    return {
      register,
      rings: bell.rings + last.length,
      idle: bell.idle + last.length,
      examples: [...bell.examples, ...last.map(({ t, value }) => ({ t, value }))]
        .sort((a, b) => a.t - b.t)
        .slice(0, EXAMPLES_MAX),
    };
  }

  #answer(byWork: boolean): void {
    for (const { ring } of this.#bells.values()) if (ring !== undefined) ring.answered = true;
    const ring = this.#written?.ring;
    if (byWork && ring !== undefined) ring.atOnce = true;
  }
}

function settle(bell: Bell): void {
  const { ring } = bell;
  bell.ring = undefined;
  if (ring !== undefined) count(bell, ring);
}

function count(bell: Bell, { t, value, answered, atOnce }: Ring): void {
  bell.rings++;
  if (atOnce) bell.atOnce++;
  if (answered) return;
  bell.idle++;
  if (bell.examples.length < EXAMPLES_MAX) bell.examples.push({ t, value });
}
