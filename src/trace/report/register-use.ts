import type { FunctionEvent, RegisterEvent, TracedRegister, UnmodelledEvent } from '../event.ts';
import { RegisterNames } from '../register-names.ts';

/** How often the guest went to a register. */
export interface RegisterUse {
  readonly bar: number;
  readonly register: string;
  readonly access: TracedRegister['access'];
  readonly reads: number;
  readonly writes: number;
  /** Of an array: elements that were touched, and how many it has. */
  readonly elements?: { readonly touched: number; readonly of: number };
}

/** Accesses that the device does not model, alike ones together. */
export interface UnmodelledUse {
  readonly bar: number;
  readonly offset: number;
  /** Bytes. */
  readonly width: number;
  readonly direction: 'read' | 'write';
  readonly why: string;
  readonly count: number;
}

interface Count {
  reads: number;
  writes: number;
  readonly elements: Set<string>;
}

/** Different places that are told apart. */
const UNMODELLED_MAX = 1000;

/** Which registers of one function the guest touched, and what it touched where none is. */
export class RegisterUses {
  readonly #names: RegisterNames;
  readonly #counts = new Map<TracedRegister, Count>();
  readonly #bars: FunctionEvent['bars'];
  readonly #unmodelled = new Map<
    string,
    { -readonly [K in keyof UnmodelledUse]: UnmodelledUse[K] }
  >();

  constructor({ rid, bars }: Pick<FunctionEvent, 'rid' | 'bars'>) {
    this.#bars = bars;
    this.#names = new RegisterNames(rid, bars);
  }

  access({ bar, offset, width, direction }: RegisterEvent): void {
    const { registers, register = '' } = this.#names.of(bar, offset, width);
    for (const one of registers) {
      let count = this.#counts.get(one);
      if (count === undefined) {
        count = { reads: 0, writes: 0, elements: new Set() };
        this.#counts.set(one, count);
      }
      if (direction === 'read') count.reads++;
      else count.writes++;
      if (one.count > 1) count.elements.add(register);
    }
  }

  unmodelled({ bar, offset, width, direction, why }: UnmodelledEvent): void {
    const key = `${bar} ${offset} ${width} ${direction} ${why}`;
    const known = this.#unmodelled.get(key);
    if (known !== undefined) known.count++;
    else if (this.#unmodelled.size < UNMODELLED_MAX) {
      this.#unmodelled.set(key, { bar, offset, width, direction, why, count: 1 });
    }
  }

  /** All that there are, those never touched too, by BAR and offset. */
  get registers(): readonly RegisterUse[] {
    return this.#bars.flatMap(({ bar, registers }) =>
      registers.map((one) => {
        const { reads = 0, writes = 0, elements } = this.#counts.get(one) ?? {};
        const array = { elements: { touched: elements?.size ?? 0, of: one.count } };
        const { name: register, access } = one;
        return { bar, register, access, reads, writes, ...(one.count > 1 ? array : {}) };
      }),
    );
  }

  get unmodelledUses(): readonly UnmodelledUse[] {
    return [...this.#unmodelled.values()].sort((a, b) => b.count - a.count);
  }
}
