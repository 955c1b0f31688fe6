import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ACCESS_PLATFORM, EVENT_IDX, INDIRECT, VERSION_1, VirtioBench } from './bench.ts';
import { type Buffer, DriverQueue, type Pending } from './driver-queue.ts';
import { Echo } from './echo.ts';

const ECHO = 0;
const LATER = 1;
/** Bytes of memory for one request: buffers first, its indirect table in the upper half. */
const ROOM = 2048;

const features = fc
  .subarray([INDIRECT, EVENT_IDX, ACCESS_PLATFORM])
  .map((some) => [VERSION_1, ...some]);
const sizes = fc.constantFrom(4, 8, 16);
/** The shape of a chain: lengths of its buffers. */
const shape = fc.record({
  readable: fc.array(fc.integer({ min: 1, max: 90 }), { maxLength: 4 }),
  writable: fc.array(fc.integer({ min: 1, max: 90 }), { maxLength: 4 }),
  indirect: fc.boolean(),
});
type Shape = typeof shape extends fc.Arbitrary<infer T> ? T : never;

/** A driver with an echo device: adds requests, and checks whatever comes back. */
class EchoDriver {
  readonly device = new Echo();
  readonly bench = new VirtioBench(this.device);
  readonly queue: DriverQueue;
  served = 0;
  readonly #requests = new Map<Pending, Uint8Array>();
  readonly #rooms: number[];
  readonly #roomOf = new Map<Pending, number>();

  constructor(index: number, size: number, chosen: readonly number[]) {
    const { bench } = this;
    bench.negotiate(chosen);
    this.queue = new DriverQueue(bench, { size, features: chosen, index });
    bench.ready();
    this.#rooms = Array.from({ length: size }, (_, n) => 8192 + n * ROOM);
  }

  /** Adds a chain where there is room for it. */
  add({ readable, writable, indirect }: Shape, seed: number): boolean {
    const count = readable.length + writable.length;
    const table = indirect && this.queue.indirect;
    if (count === 0 || count > this.queue.size) return false;
    if (this.queue.free < (table ? 1 : count)) return false;
    const room = this.#rooms.pop() as number;
    let at = room;
    const place = (length: number): Buffer => {
      const buffer = { address: at, length };
      at += length + 1; // no two are neighbours
      return buffer;
    };
    const readers = readable.map(place);
    const writers = writable.map(place);
    this.bench.memory.fill(0xee, room, room + ROOM);
    const request = new Uint8Array(readable.reduce((sum, length) => sum + length, 0));
    for (let n = 0; n < request.length; n++) request[n] = seed + 7 * n;
    let done = 0;
    for (const { address, length } of readers) {
      this.bench.memory.set(request.subarray(done, done + length), address);
      done += length;
    }
    const pending = this.queue.add(readers, writers, table ? room + ROOM / 2 : undefined);
    this.#requests.set(pending, request);
    this.#roomOf.set(pending, room);
    return true;
  }

  /** Checks what came back: that it is the answer, and that no byte beside it has changed. */
  reap(): Pending[] {
    return this.queue.reap().map(({ pending, length }) => {
      const request = this.#requests.get(pending) as Uint8Array;
      const room = this.#roomOf.get(pending) as number;
      const { memory } = this.bench;
      const before = new Uint8Array(ROOM / 2).fill(0xee);
      let done = 0;
      for (const buffer of pending.readable) {
        before.set(request.subarray(done, done + buffer.length), buffer.address - room);
        done += buffer.length;
      }
      const writable = pending.writable.reduce((sum, buffer) => sum + buffer.length, 0);
      const answer = request.slice(0, writable).map((byte) => byte + 1);
      done = 0;
      for (const buffer of pending.writable) {
        before.set(answer.subarray(done, done + buffer.length), buffer.address - room);
        done += buffer.length;
      }
      expect(length).toBe(answer.length);
      expect(memory.subarray(room, room + ROOM / 2)).toEqual(before);
      this.#requests.delete(pending);
      this.#rooms.push(room);
      this.served++;
      return pending;
    });
  }

  expectUnhurt(): void {
    expect(this.bench.faults).toEqual([]);
    expect(this.bench.accesses).toEqual([]);
    expect(this.bench.status & 64).toBe(0);
  }
}

// Milliseconds, but on a machine that is busy: hundreds of drivers, 2^17 chains.
describe('a virtqueue', { timeout: 60_000 }, () => {
  it('serves chains of any shape, in order, and tells the driver when it wants to know', () => {
    fc.assert(
      fc.property(
        features,
        sizes,
        fc.array(fc.tuple(fc.array(shape, { minLength: 1, maxLength: 6 }), fc.boolean()), {
          maxLength: 40,
        }),
        (chosen, size, rounds) => {
          const driver = new EchoDriver(ECHO, size, chosen);
          const { queue, bench } = driver;
          let serial = 0;
          for (const [shapes, wanted] of rounds) {
            if (wanted) expect(queue.enableInterrupts()).toBe(false);
            else queue.disableInterrupts();
            bench.interrupts.messages.length = 0;
            const added = shapes.filter((one, n) => driver.add(one, n)).length;
            queue.kick();
            const back = driver.reap();
            expect(back.map((pending) => pending.serial)).toEqual(
              Array.from({ length: added }, (_, n) => serial + n),
            );
            serial += added;
            expect(bench.interrupts.messages).toEqual(wanted && added > 0 ? [ECHO] : []);
          }
          driver.expectUnhurt();
        },
      ),
    );
  });

  it('never sleeps on a buffer, nor lets the driver sleep on an answer, whoever acts when', () => {
    fc.assert(
      fc.property(
        features,
        sizes,
        fc.array(shape, { minLength: 1, maxLength: 30 }),
        fc.array(fc.nat({ max: 5 }), { minLength: 1, maxLength: 60 }),
        (chosen, size, shapes, moments) => {
          const driver = new EchoDriver(ECHO, size, chosen);
          const { queue, bench } = driver;
          const waiting = [...shapes];
          let doorbell = false;
          let tick = 0;
          let wait = moments[0] ?? 0;
          const act = () => {
            const next = waiting.shift();
            if (next === undefined) return;
            const { readable, writable } = next;
            // What can never fit is not asked for.
            if (readable.length + writable.length > size) return;
            if (driver.add(next, waiting.length)) doorbell = queue.mustNotify() || doorbell;
            else if (readable.length + writable.length > 0) waiting.unshift(next);
          };
          bench.between = () => {
            if (wait-- > 0) return;
            wait = moments[++tick % moments.length] ?? 0;
            act();
          };
          // The driver sleeps after it has asked for an interrupt and found nothing.
          let steps = 0;
          while (waiting.length > 0 || queue.pending.size > 0) {
            expect(++steps).toBeLessThan(1000);
            act();
            const asked = !queue.enableInterrupts();
            bench.interrupts.messages.length = 0;
            if (doorbell) {
              doorbell = false;
              bench.notify(ECHO);
              // Woken, unless nothing was under way when it fell asleep.
              if (asked && queue.enableInterrupts()) {
                expect(bench.interrupts.messages).toContain(ECHO);
              }
            } else {
              // No doorbell is due: then nothing may be left lying.
              expect(queue.enableInterrupts() || queue.pending.size === 0).toBe(true);
            }
            driver.reap();
          }
          driver.expectUnhurt();
        },
      ),
      { numRuns: 300 },
    );
  });

  it('misses no chain that comes while it looks, also where it keeps them', () => {
    fc.assert(
      fc.property(
        features,
        sizes,
        fc.array(fc.nat({ max: 9 }), { minLength: 1, maxLength: 30 }),
        (chosen, size, moments) => {
          const driver = new EchoDriver(LATER, size, chosen);
          const { queue, device, bench } = driver;
          const one: Shape = { readable: [1], writable: [], indirect: false };
          for (const moment of moments) {
            let doorbell = false;
            let wait = moment;
            bench.between = () => {
              if (wait-- === 0 && driver.add(one, 0)) doorbell = queue.mustNotify();
            };
            if (driver.add(one, 0) && queue.mustNotify()) bench.notify(LATER);
            bench.between = undefined;
            if (doorbell) bench.notify(LATER);
            // Nobody is to be told any more: so all of it has been seen.
            expect(device.held.length).toBe(queue.pending.size);
            device.release([0, 0]);
            driver.reap();
          }
          driver.expectUnhurt();
        },
      ),
    );
  });

  it('interrupts when the used index passes the one that the driver names, and only then', () => {
    const { queue, bench } = new EchoDriver(ECHO, 8, [VERSION_1, EVENT_IDX]);
    const view = new DataView(bench.memory.buffer);
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 8 }),
        fc.integer({ min: -4, max: 10 }),
        (count, ahead) => {
          const before = view.getUint16(queue.used + 2, true);
          view.setUint16(queue.available + 4 + 2 * 8, (before + ahead) & 0xffff, true);
          bench.interrupts.messages.length = 0;
          for (let n = 0; n < count; n++) queue.add([], [{ address: 16384, length: 1 }]);
          queue.kick();
          expect(queue.reap()).toHaveLength(count);
          expect(bench.interrupts.messages).toEqual(ahead >= 0 && ahead < count ? [ECHO] : []);
        },
      ),
      { numRuns: 500 },
    );
  });

  it('takes chains back in any order, visible only when flushed', () => {
    fc.assert(
      fc.property(
        features,
        sizes,
        fc.array(
          fc.tuple(fc.array(shape, { maxLength: 5 }), fc.array(fc.nat(), { maxLength: 5 })),
          {
            maxLength: 40,
          },
        ),
        (chosen, size, rounds) => {
          const driver = new EchoDriver(LATER, size, chosen);
          const { queue, device } = driver;
          for (const [shapes, picks] of rounds) {
            for (const [n, one] of shapes.entries()) driver.add(one, n);
            queue.kick();
            expect(driver.reap()).toEqual([]);
            expect(device.later.inFlight).toBe(queue.pending.size);
            expect(device.held.length).toBe(queue.pending.size);
            device.release(picks);
            driver.reap();
            expect(device.later.inFlight).toBe(queue.pending.size);
          }
          device.release(Array(size).fill(0));
          driver.reap();
          expect(queue.pending.size).toBe(0);
          driver.expectUnhurt();
        },
      ),
    );
  });

  it.each([
    ['by flags', []],
    ['by event index', [EVENT_IDX]],
  ])('goes on past 2^16 chains, notified %s', (_, more) => {
    const driver = new EchoDriver(ECHO, 256, [VERSION_1, ...more]);
    const { queue, bench } = driver;
    let done = 0;
    while (done < 2 ** 17 + 1000) {
      queue.enableInterrupts();
      bench.interrupts.messages.length = 0;
      const count = 1 + (done % 256);
      for (let n = 0; n < count; n++) {
        queue.add([], [{ address: 16384, length: 1 }]);
      }
      queue.kick();
      const back = queue.reap();
      if (back.length !== count || bench.interrupts.messages.length === 0) {
        expect.fail(`${back.length} of ${count} came back after ${done}`);
      }
      done += count;
    }
    driver.expectUnhurt();
  });

  it.each([512, 1024])('follows chains all over a table of %i', (size) => {
    const features = [VERSION_1, INDIRECT];
    const device = new Echo();
    const bench = new VirtioBench(device);
    bench.negotiate(features);
    const queue = new DriverQueue(bench, { size, features, index: LATER, scattered: true });
    bench.ready();
    const byte = (n: number) => ({ address: 40000 + n, length: 1 });
    for (let chain = 0; chain < 100; chain++) {
      const readable = Array.from({ length: (chain % 9) + 1 }, (_, n) => byte(chain + 50 * n));
      queue.add(readable, [], chain % 7 === 0 ? 60000 : undefined);
      for (const [n, { address }] of readable.entries()) bench.memory[address] = n + chain;
      queue.kick();
      const bytes = Array.from({ length: readable.length }, (_, n) => n + chain);
      expect([...(device.held.at(-1)?.read() ?? [])]).toEqual(bytes);
      device.release([0]);
      expect(queue.reap()).toHaveLength(1);
    }
    const all = Array.from({ length: size }, (_, n) => byte(n));
    bench.memory.fill(7, 40000, 40000 + size);
    let batches = 0;
    const read = bench.dma.readBatch;
    bench.dma.readBatch = (accesses, count) => {
      batches++;
      return read(accesses, count);
    };
    queue.add(all, []);
    queue.kick();
    // avail idx; entries; four windows and the table; avail idx again.
    expect(batches).toBeLessThanOrEqual(9);
    expect(device.held[0]?.read()).toEqual(new Uint8Array(size).fill(7));
    expect(bench.faults).toEqual([]);
  });

  it('reads requests that were fetched ahead, and those longer than that', () => {
    const { device, queue, bench } = new EchoDriver(ECHO, 8, [VERSION_1]);
    const seen: number[][] = [];
    device.onChain = (chain, own) => {
      seen.push([...chain.read(2, 4)], [...chain.read(6, 6)], [...chain.read()]);
      const into = new Uint8Array(3);
      chain.readInto(into, 12);
      seen.push([...into]);
      expect(() => chain.read(0, 16)).toThrow(/inside the 15 readable/);
      expect(() => chain.write(new Uint8Array(5))).toThrow(/inside the 4 writable/);
      chain.write(Uint8Array.of(1, 2));
      chain.write(Uint8Array.of(9), 0);
      chain.write(Uint8Array.of(8), 3);
      expect(() => own.put(chain, 5)).toThrow(/at most 4/);
      own.put(chain, 3);
      expect(() => own.put(chain)).toThrow(/put back already/);
      expect(() => chain.read()).toThrow(/put back/);
    };
    const bytes = Array.from({ length: 15 }, (_, n) => n);
    bench.memory.set(bytes, 9000);
    const buffers = [
      { address: 9000, length: 5 },
      { address: 9005, length: 10 },
    ];
    queue.add(buffers, [{ address: 9100, length: 4 }]);
    queue.kick();
    expect(seen).toEqual([bytes.slice(2, 6), bytes.slice(6, 12), bytes, bytes.slice(12)]);
    return new Promise<void>((resolve) => setImmediate(resolve)).then(() => {
      expect(queue.reap()[0]?.length).toBe(3);
      expect([...bench.memory.subarray(9100, 9104)]).toEqual([9, 2, 0, 8]);
      expect(bench.faults).toEqual([]);
    });
  });

  it('gives a device that asks out of turn what has come, and tells it of what comes then', () => {
    for (const more of [[], [EVENT_IDX]]) {
      const { device, queue, bench } = new EchoDriver(ECHO, 8, [VERSION_1, ...more]);
      let wanted = 0;
      device.onQueueOf = (own) => {
        while (wanted > 0) {
          const chain = own.take();
          if (chain === undefined) break;
          wanted--;
          own.put(chain, 0);
        }
      };
      const add = () => queue.add([], [{ address: 9000, length: 4 }]);
      // It wants none: they stay, and it is not called again and again.
      for (let n = 0; n < 3; n++) add();
      const { calls } = device;
      queue.kick();
      expect(device.calls - calls).toBe(1);
      expect(queue.reap()).toHaveLength(0);
      // It takes them, and one that nobody told of.
      add();
      for (let n = 0; n < 4; n++) {
        const chain = device.echo.take();
        if (chain === undefined) throw new Error(`expected chain ${n}`);
        device.echo.put(chain, 0);
      }
      expect(queue.reap()).toHaveLength(0);
      device.echo.flush();
      expect(queue.reap()).toHaveLength(4);
      queue.mustNotify();
      expect(device.echo.take()).toBeUndefined();
      // There was none, so it is told of the next.
      wanted = 1;
      add();
      expect(queue.mustNotify()).toBe(true);
      bench.notify(ECHO);
      expect(queue.reap()).toHaveLength(1);
      expect(bench.faults).toEqual([]);
    }
  });

  it('is told of what comes next also where each call takes so many and looks no further', () => {
    fc.assert(
      fc.property(
        features,
        fc.integer({ min: 1, max: 3 }),
        fc.array(fc.integer({ min: 1, max: 8 }), { minLength: 1, maxLength: 20 }),
        fc.nat({ max: 12 }),
        (chosen, most, rounds, moment) => {
          const { device, queue, bench } = new EchoDriver(ECHO, 8, chosen);
          device.onQueueOf = (own) => {
            for (let n = 0; n < most; n++) {
              const chain = own.take();
              if (chain === undefined) return;
              own.put(chain, 0);
            }
          };
          const add = () => queue.add([], [{ address: 16384, length: 4 }]);
          for (const count of rounds) {
            for (let n = 0; n < count; n++) add();
            let doorbell = queue.mustNotify();
            expect(doorbell).toBe(true);
            // Another comes while it is at work.
            let wait = moment;
            bench.between = () => {
              if (wait-- !== 0 || queue.free === 0) return;
              add();
              doorbell = queue.mustNotify();
            };
            while (doorbell) {
              doorbell = false;
              bench.notify(ECHO);
            }
            bench.between = undefined;
            queue.reap();
            expect(queue.pending.size).toBe(0);
          }
          expect(bench.faults).toEqual([]);
        },
      ),
    );
  });

  it.each([1, 4, 64])(
    'takes %i chains with requests and replies in six turns to memory',
    (count) => {
      const { queue, bench } = new EchoDriver(ECHO, 256, [VERSION_1, EVENT_IDX]);
      let batches = 0;
      for (const name of ['readBatch', 'writeBatch'] as const) {
        const run = bench.dma[name].bind(bench.dma);
        bench.dma[name] = (accesses, length) => {
          batches++;
          return run(accesses, length);
        };
      }
      for (let n = 0; n < count; n++) {
        queue.add([{ address: 9000, length: 8 }], [{ address: 9100 + 8 * n, length: 4 }]);
      }
      queue.kick();
      expect(queue.reap()).toHaveLength(count);
      // avail idx; entries and table; requests; replies and elements; used idx and avail_event;
      // flags, avail idx and used_event.
      expect(batches).toBe(6);
    },
  );
});
