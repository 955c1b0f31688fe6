/**
 * Batches of accesses through DmaPort in sealed memory, beside as many single ones to pages in the
 * same state: 32 pages that lie apart (each a request of its own) and 32 pages of one 128 KiB (which go
 * in one). Part of bench/dma.ts.
 */
import type { DmaAccess, DmaPort } from '../src/pci/dma-port.ts';
import type { CacheState, CpuCache } from './cpu-cache.ts';
import { type Comparison, compare, interleaved, quantile, rounded } from './figures.ts';
import type { Placement } from './placement.ts';

const ACCESSES = 32;
const PAGE_BYTES = 4096;
/** Batches timed, of each kind. */
const SAMPLES = 60;
/** `dropped`: by a DMA write before, and not filled since. */
type PageState = CacheState | 'dropped';
const STATES: readonly PageState[] = ['dirty', 'clean', 'absent', 'dropped'];
const DIRECTIONS = ['read', 'write'] as const;
/** Bytes from one access to the next. */
const LAYOUTS = { scattered: 2 * PAGE_BYTES, adjoining: PAGE_BYTES } as const;
const SINGLE = `${ACCESSES} single accesses to pages in the same state`;

/** A batch of 32 times 4 KiB; times are those of one access of it. */
export interface Batch extends Comparison {
  /** Where the controller is: on the device's core, or on another. */
  readonly placement: Placement;
  readonly layout: keyof typeof LAYOUTS;
  readonly direction: (typeof DIRECTIONS)[number];
  /** The pages in the CPU's cache when the DMA comes. */
  readonly pages: PageState;
  readonly p50_us: number;
  readonly p99_us: number;
  readonly single_p50_us: number;
}

/** @throws Error where a read does not see what the CPU stored. */
export async function measureBatches(
  { port, cpu, ramBytes }: { readonly port: DmaPort; readonly cpu: CpuCache; ramBytes: number },
  placement: Placement,
): Promise<Batch[]> {
  const results: Batch[] = [];
  const accesses: DmaAccess[] = Array.from({ length: ACCESSES }, () => ({
    ...{ iova: 0, bytes: new Uint8Array(PAGE_BYTES), abort: undefined },
  }));
  let turn = 0;
  for (const layout of Object.keys(LAYOUTS) as (keyof typeof LAYOUTS)[]) {
    const step = LAYOUTS[layout];
    for (const direction of DIRECTIONS) {
      const sample = async (state: PageState, move: () => void) => {
        const from = (turn++ * ACCESSES * step) % ramBytes;
        const value = turn & 0xff;
        // Dirty first in any case, so that each state has the same past.
        await cpu.put('dirty', from, ACCESSES * step, value);
        if (state !== 'dirty') {
          await cpu.put(state === 'dropped' ? 'absent' : state, from, ACCESSES * step);
        }
        for (const [i, access] of accesses.entries()) access.iova = from + i * step;
        if (state === 'dropped') move();
        const begin = process.hrtime.bigint();
        move();
        const time = Number(process.hrtime.bigint() - begin) / ACCESSES;
        const stale = accesses.find(({ bytes, abort }) => abort ?? bytes[0] !== value);
        if (direction === 'read' && stale !== undefined) {
          throw new Error(`expected each DMA to read ${value}, got ${stale.bytes[0]}`);
        }
        return time;
      };
      const batch = () => {
        if (direction === 'read') port.readBatch(accesses, ACCESSES);
        else port.writeBatch(accesses, ACCESSES);
      };
      const single = () => {
        for (const { iova, bytes } of accesses) {
          if (direction === 'read') port.readInto(iova, bytes);
          else port.writeFrom(iova, bytes);
        }
      };
      for (const pages of STATES) {
        if (pages === 'dropped' && direction === 'read') continue;
        const times = await interleaved(SAMPLES, {
          batch: () => sample(pages, batch),
          single: () => sample(pages, single),
        });
        const us = (values: readonly number[], share: number) =>
          rounded(quantile(values, share) / 1000);
        const p50_us = us(times.batch, 0.5);
        const single_p50_us = us(times.single, 0.5);
        results.push({
          ...{ placement, layout, direction, pages, p50_us, p99_us: us(times.batch, 0.99) },
          single_p50_us,
          ...compare(p50_us, single_p50_us, { peer: SINGLE, rounds: SAMPLES }),
        });
      }
    }
  }
  return results;
}
