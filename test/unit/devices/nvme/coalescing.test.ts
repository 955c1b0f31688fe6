import { describe, expect, it } from 'vitest';
import { DmaBatch } from '../../../../src/devices/nvme/dma-batch.ts';
import { Coalescing } from '../../../../src/devices/nvme/queue/coalescing.ts';
import { CompletionQueue } from '../../../../src/devices/nvme/queue/completion-queue.ts';
import { BenchDma } from '../../pci/bench.ts';

const US = 1000;

describe('when held completions go out', () => {
  it('one at a time where the host keeps one command under way', () => {
    const it = new Coalescing(1);
    for (let now = 0; now < 100 * US; now += 10 * US) {
      it.submitted(1, now);
      it.held(1, now);
      expect(it.due(1, now)).toBe(true);
    }
  });

  it('together where it keeps several, and no later than the last of them', () => {
    const it = new Coalescing(1);
    it.submitted(8, 0);
    for (let count = 1; count < 8; count++) {
      it.held(count, count * US);
      expect(it.due(count, count * US)).toBe(false);
    }
    it.held(8, 8 * US);
    expect(it.due(8, 8 * US)).toBe(true);
  });

  it('by halves where the host is not to stand still', () => {
    const it = new Coalescing(0.5);
    for (const [depth, batch] of [
      [1, 1],
      [2, 1],
      [3, 2],
      [32, 16],
      [1000, 32],
    ] as const) {
      it.submitted(depth, 0);
      expect(it.batch).toBe(batch);
    }
  });

  it('after a quiet moment, which lowers what is expected; and after a bounded time in any case', () => {
    const it = new Coalescing(1);
    it.submitted(8, 0);
    it.held(1, 0);
    it.held(2, 1 * US);
    expect(it.due(2, 10 * US)).toBe(false);
    expect(it.due(2, 200 * US)).toBe(true);
    expect(it.batch).toBe(2);
    it.submitted(8, 1000 * US);
    it.held(1, 1000 * US);
    let now = 1000 * US;
    while (!it.due(2, now)) {
      now += 5 * US;
      it.submitted(8, now);
      expect(now).toBeLessThan(2000 * US);
    }
  });
});

describe('a completion queue', () => {
  const queue = () => {
    const memory = new Uint8Array(4096);
    const dma = new BenchDma(memory, 4096);
    const batch = new DmaBatch<CompletionQueue>();
    const host = { completionPoint: undefined, nowNs: 0, entryStands: () => () => true, wake() {} };
    const it = new CompletionQueue(1, 0, { size: 4, vector: 1, interrupts: true, share: 1, host });
    const post = (count: number, nowNs: number) => {
      for (let n = 0; n < count; n++) it.hold(1, 0, n, 0, 0, nowNs);
      it.post(batch, nowNs);
      batch.write(dma, () => undefined);
    };
    return { it, post, phases: () => [0, 1, 2, 3].map((n) => (memory[16 * n + 14] ?? 0) & 1) };
  };

  it('flips its phase at the wrap, and never fills its last entry', () => {
    const { it, post, phases } = queue();
    post(5, 0);
    expect([it.unconsumed, it.held, it.full]).toEqual([3, 2, true]);
    expect(phases()).toEqual([1, 1, 1, 0]);
    expect(it.consume(3)).toBe(true);
    post(0, 0);
    expect(phases()).toEqual([0, 1, 1, 1]);
    expect([it.tail, it.held]).toEqual([1, 0]);
  });

  it('takes no head beyond what was posted', () => {
    const { it, post } = queue();
    post(2, 0);
    expect([it.consume(3), it.consume(4), it.consume(2), it.consume(1)]).toEqual([
      false,
      false,
      true,
      false,
    ]);
  });

  it('interrupts once for a batch, and again when the handler has passed entries by', () => {
    const { it, post } = queue();
    post(1, 0);
    expect(it.interruptDue(0)).toBe(true);
    it.interrupted();
    expect(it.interruptDue(0)).toBe(false);
    // One more, while the handler of the first has still to run.
    post(1, 10 * US);
    expect([it.unsignalled, it.interruptDue(10 * US)]).toEqual([true, false]);
    // It had looked before: it consumes the first alone.
    it.consume(1);
    expect(it.interruptDue(11 * US)).toBe(true);
    it.interrupted();
    it.consume(2);
    expect(it.unsignalled).toBe(false);
  });

  it('interrupts again where no handler comes', () => {
    const { it, post } = queue();
    post(1, 0);
    it.interrupted();
    post(1, 0);
    expect(it.interruptDue(1_000_000)).toBe(true);
    // Or the handler took both along.
    it.consume(2);
    expect(it.interruptDue(1_000_000)).toBe(false);
  });
});
