import { isInClear } from '../../keys/key-slot.ts';
import type { Platform } from '../../machine/platform.ts';
import type { RequesterId } from '../../pci/requester-id.ts';
import {
  bindingLine,
  dmaLine,
  keyLine,
  pagesLine,
  type RangeBinding,
  type RecordLine,
  rangeLine,
  subsystemLine,
  vmLine,
} from './record-line.ts';

/** Lines that are kept for those who ask afterwards. */
const KEPT_MAX = 4096;

export type RecordListener = (line: RecordLine) => void;

/**
 * Sees every binding, key event, conversion of pages and refused DMA of a platform, counts them, and tells whoever
 * listens.
 */
export class Recorder implements Disposable {
  readonly #listeners = new Set<RecordListener>();
  readonly #stops: (() => void)[];
  readonly #kept: RecordLine[] = [];
  /** By event and reason, and for refused DMA by VM. */
  readonly #counts = new Map<string, { readonly line: RecordLine; count: number }>();
  readonly #paused = new Set<number>();
  #total = 0;

  constructor(platform: Platform) {
    const { iommu, slots, keys, conversions } = platform;
    const generation = (slot: Parameters<typeof isInClear>[0]) =>
      isInClear(slot) ? null : slots.generation(slot);
    this.#stops = [
      iommu.faults.onFault((fault) => this.#record(dmaLine(fault))),
      iommu.table.onChange((rid, entry, before) =>
        this.#record(bindingLine(new Date(), rid, entry, before, generation)),
      ),
      slots.onEntered((now, before) => this.#record(keyLine(new Date(), now, before))),
      conversions.add((done) =>
        this.#record(pagesLine(new Date(), done, slots.generation(done.slot))),
      ),
      keys.onRotation(({ slot, state, generation: next }) => {
        const was = this.#paused.has(slot);
        if (state === 'paused') this.#paused.add(slot);
        else this.#paused.delete(slot);
        if (was === (state === 'paused') || (state !== 'paused' && state !== 'running')) return;
        const reason = state === 'paused' ? 'rotation-paused' : 'rotation-resumed';
        const time = new Date().toISOString();
        const vm = slots.vm(slot) ?? null;
        this.#record({ time, event: 'key', rid: null, vm, slot, generation: next, reason });
      }),
    ];
  }

  /** Lines so far. */
  get total(): number {
    return this.#total;
  }

  /** The newest lines, oldest first. */
  get lines(): readonly RecordLine[] {
    return this.#kept;
  }

  /** How often each event was, by reason; those of DMA by VM as well. */
  counts(): readonly {
    readonly event: string;
    readonly reason: string;
    readonly vm: number | null;
    readonly count: number;
  }[] {
    return [...this.#counts.values()].map(({ line: { event, reason, vm }, count }) => {
      return { event, reason, vm: isOfDma(event) ? vm : null, count };
    });
  }

  /** DMA of a VM that was refused. */
  refused(vm: number): number {
    return this.counts().reduce(
      (sum, one) => (one.event === 'refused' && one.vm === vm ? sum + one.count : sum),
      0,
    );
  }

  vm(vm: number, name: string, reason: 'added' | 'removed'): void {
    this.#record(vmLine(new Date(), vm, name, reason));
  }

  subsystem(...[name, what]: [string, Parameters<typeof subsystemLine>[2]]): void {
    this.#record(subsystemLine(new Date(), name, what));
  }

  range(rid: RequesterId, binding: RangeBinding): void {
    this.#record(rangeLine(new Date(), rid, binding));
  }

  /** Calls `listener` with each line from now on. Answers how to stop that. */
  onLine(listener: RecordListener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  [Symbol.dispose](): void {
    for (const stop of this.#stops) stop();
    this.#listeners.clear();
  }

  #record(line: RecordLine | undefined): void {
    if (line === undefined) return;
    this.#total++;
    this.#kept.push(line);
    if (this.#kept.length > KEPT_MAX) this.#kept.shift();
    const key = `${line.event} ${line.reason} ${isOfDma(line.event) ? line.vm : ''}`;
    const counted = this.#counts.get(key);
    if (counted === undefined) this.#counts.set(key, { line, count: 1 });
    else counted.count++;
    for (const listener of this.#listeners) {
      try {
        listener(line);
      } catch (error) {
        // Who only watches must not change what is watched.
        process.emitWarning(error instanceof Error ? error : String(error));
      }
    }
  }
}

function isOfDma(event: RecordLine['event']): boolean {
  return event === 'refused' || event === 'mismatched';
}
