import type { InterruptKind, VfioUserClient } from '../vfio-user/client/client.ts';
import { InterruptEvent } from '../vfio-user/client/interrupt-event.ts';
import type { ConfigRegion } from './config-region.ts';

/** How a device's interrupts are taken: the kinds that it has, and the best of them. */
export type InterruptChoice = InterruptKind | 'best' | 'none';

/** Descriptors are dear: a device of 2048 vectors seldom uses more than a few in a test. */
const VECTORS_DEFAULT = 32;
const VECTORS_MAX = 2048;
const LABELS = { intx: 'INTA#', msi: 'MSI vector', msix: 'MSI-X vector' } as const;

export interface InterruptsOptions {
  readonly choice: InterruptChoice;
  /** How many are taken at most; undefined is 32. */
  readonly vectors: number | undefined;
  readonly timeoutMs: number;
  /** What may be said about an interrupt that did not come. */
  readonly why: () => string | undefined;
}

/** A device's interrupts as its VMM takes them: an eventfd a vector. */
export class Interrupts implements Disposable {
  readonly kind: InterruptKind | 'none';
  readonly #events: readonly InterruptEvent[];
  /** Vectors of the kind that the device has. */
  readonly #offered: number;

  /** @throws RangeError where `vectors` is no such number; Error where the device has not what is chosen */
  constructor(
    offered: Readonly<Record<InterruptKind, number>>,
    { choice, vectors = VECTORS_DEFAULT, timeoutMs, why }: InterruptsOptions,
  ) {
    if (!Number.isInteger(vectors) || vectors < 1 || vectors > VECTORS_MAX) {
      throw new RangeError(`expected 1 to ${VECTORS_MAX} vectors to take, got ${vectors}`);
    }
    this.kind = chosen(offered, choice);
    const { kind } = this;
    this.#offered = kind === 'none' ? 0 : offered[kind];
    const taken = Math.min(this.#offered, vectors);
    this.#events = Array.from({ length: taken }, (_, vector) => {
      const label = kind === 'none' ? '' : LABELS[kind];
      const name = `an interrupt (${kind === 'intx' ? label : `${label} ${vector}`})`;
      return new InterruptEvent({ name, timeoutMs, why });
    });
  }

  /** @throws RangeError where the vector is not taken */
  of(vector: number): InterruptEvent {
    const event = this.#events[vector];
    if (event !== undefined) return event;
    if (this.kind === 'none') {
      throw new RangeError('expected a device whose interrupts are taken, got one without');
    }
    const taken = this.#events.length;
    throw new RangeError(
      `expected ${LABELS[this.kind]} 0 to ${taken - 1}, got ${vector}` +
        (vector < this.#offered ? `: the option vectors: ${vector + 1} takes it too` : ''),
    );
  }

  /** Hands the eventfds to the server and has the device use them. */
  async enable(client: VfioUserClient, config: ConfigRegion): Promise<void> {
    const { kind } = this;
    if (kind === 'none') return;
    const most = client.version.descriptorsMax;
    const descriptors = this.#events.map((event) => event.descriptor);
    const wired: Promise<void>[] = [];
    for (let first = 0; first < descriptors.length; first += most) {
      wired.push(client.wireInterrupts(kind, first, descriptors.slice(first, first + most)));
    }
    await Promise.all(wired);
    if (kind !== 'intx') await config.enableMessages(kind, true);
  }

  /** Takes the eventfds back: nothing is signalled from the answer on. */
  async disable(client: VfioUserClient): Promise<void> {
    if (this.kind !== 'none') await client.unwireInterrupts(this.kind);
  }

  /** Who waits, or comes to, is told. */
  end(why: Error): void {
    for (const event of this.#events) event.end(why);
  }

  [Symbol.dispose](): void {
    for (const event of this.#events) event[Symbol.dispose]();
  }
}

function chosen(
  offered: Readonly<Record<InterruptKind, number>>,
  choice: InterruptChoice,
): InterruptKind | 'none' {
  if (choice === 'none') return 'none';
  const kinds = (['msix', 'msi', 'intx'] as const).filter((kind) => offered[kind] > 0);
  if (choice === 'best') return kinds[0] ?? 'none';
  if (kinds.includes(choice)) return choice;
  throw new Error(
    `expected a device with ${choice} interrupts, got one with ${kinds.join(' and ') || 'none'}`,
  );
}
