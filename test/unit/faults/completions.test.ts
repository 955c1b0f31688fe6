import { describe, expect, it } from 'vitest';
import type { Nvme } from '../../../src/devices/nvme/nvme.ts';
import { FaultPlan } from '../../../src/faults/index.ts';
import { ManualClock, memoryBar, PciFunction, ro32, wo32 } from '../../../src/pci/index.ts';
import { CC, HostDriver, REGISTER, turns } from '../devices/nvme/host-driver.ts';
import { MemoryStorage } from '../devices/nvme/memory-storage.ts';
import { EVENT_IDX, VERSION_1, VirtioBench } from '../virtio/bench.ts';
import { DriverQueue } from '../virtio/driver-queue.ts';
import { Echo } from '../virtio/echo.ts';
import { faultBench, RID, told } from './bench.ts';

const MS = 1e6;

const GO = 0x00;
const DONE = 0x04;

/** Has done what it is told as soon as it is told, and says which. */
class Worker extends PciFunction {
  static override readonly id = { vendor: 0x1b36, device: 2, class: 0xff0000 };
  static override readonly interrupts = { msix: 8 };
  readonly bar0 = memoryBar(16, {
    go: wo32(GO, { onWrite: (work) => this.#done(work) }),
    done: ro32(DONE),
  });

  get gated(): boolean {
    return this.completionPoint?.gate !== undefined;
  }

  /** What the device's specification calls a reset. */
  restart(): void {
    this.endWork();
  }

  #done(work: number): void {
    this.complete(() => {
      if (work > 7) throw new Error('the device has a bug');
      this.bar0.done = work;
      this.msix.raise(work);
    });
  }
}

function bench() {
  const device = new Worker();
  const made = faultBench(device);
  const work = (...which: number[]) => {
    for (const one of which) made.link.write(GO, one);
    return made.interrupts.messages.splice(0);
  };
  /** What has come by then. */
  const later = (ms: number) => {
    made.clock.advance(ms * MS);
    return made.interrupts.messages.splice(0);
  };
  return { ...made, device, work, later };
}

describe('what a device passes to complete()', () => {
  it('comes as it is said where no completion fault is armed', () => {
    const { plan, work, link, device } = bench();
    plan.arm('interrupt.lose', { nth: 99 });
    expect(device.gated).toBe(false);
    expect(work(1, 2, 3)).toEqual([1, 2, 3]);
    expect(link.read(DONE)).toBe(3);
  });

  it('is dropped as a whole: its status and its interrupt', () => {
    const { plan, work, link } = bench();
    plan.arm('completion.drop', { nth: 2 });
    expect(work(1, 2)).toEqual([1]);
    expect(link.read(DONE)).toBe(1);
    expect(work(3)).toEqual([3]);
    expect(told(plan)).toEqual(['completion.drop: the completion dropped']);
  });

  it('is late', () => {
    const { plan, work, later, link } = bench();
    plan.arm('completion.delay', { nth: 1, ms: 7 });
    expect(work(1, 2)).toEqual([2]);
    expect(later(6)).toEqual([]);
    expect(link.read(DONE)).toBe(2);
    expect(later(1)).toEqual([1]);
    expect(link.read(DONE)).toBe(1);
  });

  it('comes twice', () => {
    const { plan, work, later } = bench();
    plan.arm('completion.duplicate', { nth: 1, ms: 2 });
    expect(work(1, 2)).toEqual([1, 2]);
    expect(later(2)).toEqual([1]);
    expect(later(1000)).toEqual([]);
  });

  it('comes behind as many later ones as it is told to', () => {
    const { plan, work, later } = bench();
    plan.arm('completion.reorder', { nth: 1, after: 2 });
    expect(work(1, 2)).toEqual([2]);
    expect(work(3, 4)).toEqual([3, 1, 4]);
    expect(later(1000)).toEqual([]);
  });

  it('comes after all where no others come to overtake it', () => {
    const { plan, work, later } = bench();
    plan.arm('completion.reorder', { nth: 1, after: 2, ms: 20 });
    expect(work(1, 2)).toEqual([2]);
    expect(later(20)).toEqual([1]);
    expect(work(3)).toEqual([3]);
  });

  it('still comes after the next where the fault is disarmed meanwhile', () => {
    const { plan, work, device } = bench();
    const reorder = plan.arm('completion.reorder', { nth: 1 });
    expect(work(1)).toEqual([]);
    reorder.disarm();
    expect(work(2, 3)).toEqual([2, 1, 3]);
    expect(device.gated).toBe(false);
  });

  it('is overtaken by none that is dropped or held back itself', () => {
    const { plan, work } = bench();
    plan.arm('completion.reorder', { nth: 1 });
    plan.arm('completion.drop', { nth: 2 });
    expect(work(1, 2)).toEqual([]);
    expect(work(3)).toEqual([3, 1]);
  });

  it.each(['completion.delay', 'completion.duplicate', 'completion.reorder'] as const)(
    'that waits (%s) does not come after a reset',
    (name) => {
      const { plan, work, later, endpoint, link, device } = bench();
      const fault = plan.arm(name, { nth: 1, ms: 5 });
      work(1);
      endpoint.reset('function-level');
      fault.disarm();
      expect(device.gated).toBe(false);
      expect(later(1000)).toEqual([]);
      expect(work(2)).toEqual([2]);
      expect(link.read(DONE)).toBe(2);
    },
  );

  it('that waits does not come after a reset that the device makes by itself', () => {
    const { plan, work, later, device, link } = bench();
    plan.arm('completion.delay', { nth: 1, ms: 5 });
    work(1);
    device.restart();
    expect(later(1000)).toEqual([]);
    expect(link.read(DONE)).toBe(0);
  });

  it('of a device with a bug fails the device, late as well, and nobody else', () => {
    const { plan, work, later, device, link } = bench();
    plan.arm('completion.delay', { nth: 1, ms: 5 });
    expect(work(8)).toEqual([]);
    expect(device.failed).toBeUndefined();
    expect(later(5)).toEqual([]);
    expect(device.failed?.message).toBe('the device has a bug');
    expect(link.read(DONE)).toBe(0xffff_ffff);
  });
});

describe('a completion queue entry of NVMe', () => {
  async function nvme() {
    const clock = new ManualClock();
    const plan = new FaultPlan({ seed: 1, clock });
    const storage = new MemoryStorage(64 * 512);
    const driver = new HostDriver({ namespaces: [{ storage }] }, undefined, (it: Nvme) =>
      plan.around(it, RID),
    );
    driver.enable();
    await driver.createQueues(1);
    const page = driver.pages(1);
    const read = () => {
      const cid = driver.put(1, { opcode: 2, nsid: 1, prp1: page, dwords: [0, 0, 0] });
      driver.ring(1);
      return cid;
    };
    /** Commands of the I/O queue in the order of their entries. */
    const came = async () => {
      await turns(20);
      driver.reapAll();
      const cids = [...driver.arrived.values()].map(({ cid }) => cid);
      driver.arrived.clear();
      return cids;
    };
    return { plan, clock, driver, read, came };
  }
  const io = { when: ({ queue }: { readonly queue: number }) => queue === 1, times: 1 };

  it('is dropped: the command is done, and those after it complete', async () => {
    const { plan, read, came } = await nvme();
    plan.arm('completion.drop', io);
    const [first, second] = [read(), read()];
    expect(await came()).toEqual([second]);
    expect(told(plan)).toEqual([`completion.drop: command ${first} of queue 1 dropped`]);
    const third = read();
    expect(await came()).toEqual([third]);
  });

  it('is late, and then comes by itself', async () => {
    const { plan, clock, read, came } = await nvme();
    plan.arm('completion.delay', { ...io, ms: 30 });
    const first = read();
    expect(await came()).toEqual([]);
    clock.advance(30 * MS);
    expect(await came()).toEqual([first]);
  });

  it('comes twice', async () => {
    const { plan, clock, read, came } = await nvme();
    plan.arm('completion.duplicate', { ...io, ms: 3 });
    const first = read();
    expect(await came()).toEqual([first]);
    clock.advance(3 * MS);
    expect(await came()).toEqual([first]);
    const second = read();
    expect(await came()).toEqual([second]);
  });

  it('is overtaken by the next of its queue, and by none of another', async () => {
    const { plan, driver, read, came } = await nvme();
    plan.arm('completion.reorder', io);
    const first = read();
    expect(await came()).toEqual([]);
    expect((await driver.admin({ opcode: 6, prp1: driver.pages(1), dwords: [1] })).status).toBe(0);
    expect(await came()).toEqual([]);
    const second = read();
    expect(await came()).toEqual([second, first]);
  });

  it('that is late does not come after a reset of the controller', async () => {
    const { plan, clock, driver, read, came } = await nvme();
    plan.arm('completion.delay', { ...io, ms: 30 });
    read();
    expect(await came()).toEqual([]);
    driver.link.write(REGISTER.cc, CC.off);
    driver.enable();
    clock.advance(1000 * MS);
    expect(await came()).toEqual([]);
  });

  it('that is late does not come after its submission queue is gone', async () => {
    const { plan, clock, driver, read, came } = await nvme();
    plan.arm('completion.delay', { ...io, ms: 30 });
    read();
    expect(await came()).toEqual([]);
    expect((await driver.admin({ opcode: 0, dwords: [1] })).status).toBe(0);
    clock.advance(1000 * MS);
    expect(await came()).toEqual([]);
  });
});

describe('a used buffer of virtio', () => {
  function echo(features: readonly number[] = [VERSION_1]) {
    const clock = new ManualClock();
    const plan = new FaultPlan({ seed: 1, clock });
    const device = new Echo();
    const bench = new VirtioBench(device, {}, (inner) => plan.around(inner, RID));
    bench.negotiate(features);
    const queue = new DriverQueue(bench, { size: 4, features, vector: 0 });
    bench.ready();
    const ask = (byte: number) => {
      bench.memory[0x2000 + byte] = byte;
      const room = { address: 0x2100 + byte, length: 1 };
      const pending = queue.add([{ address: 0x2000 + byte, length: 1 }], [room]);
      queue.kick();
      return pending.serial;
    };
    const came = () => queue.reap().map(({ pending }) => pending.serial);
    return { plan, clock, bench, device, queue, ask, came };
  }

  it('is dropped, and the queue goes on', () => {
    const { plan, ask, came, bench } = echo();
    plan.arm('completion.drop', { nth: 1 });
    ask(1);
    expect(came()).toEqual([]);
    const second = ask(2);
    expect(came()).toEqual([second]);
    expect(bench.memory[0x2102]).toBe(3);
    expect(told(plan)).toEqual([`completion.drop: chain 0 of queue 'echo' dropped`]);
  });

  it.each([[[VERSION_1]], [[VERSION_1, EVENT_IDX]]])(
    'is late, and comes with an interrupt of its own (features %j)',
    (features) => {
      const { plan, clock, ask, came, bench } = echo(features);
      plan.arm('completion.delay', { nth: 1, ms: 4 });
      const first = ask(1);
      expect(came()).toEqual([]);
      expect(bench.interrupts.messages).toEqual([]);
      clock.advance(4 * MS);
      expect(bench.interrupts.messages).toEqual([0]);
      expect(came()).toEqual([first]);
    },
  );

  it('is overtaken', () => {
    const { plan, ask, came } = echo();
    plan.arm('completion.reorder', { nth: 1 });
    const first = ask(1);
    const second = ask(2);
    expect(came()).toEqual([second, first]);
  });

  it('comes twice: the used ring names a head that the driver has back already', () => {
    const { plan, clock, ask, came, bench, queue } = echo();
    plan.arm('completion.duplicate', { nth: 1, ms: 4 });
    const first = ask(1);
    expect(came()).toEqual([first]);
    clock.advance(4 * MS);
    expect(() => queue.reap()).toThrow('head 0 came back and was not under way');
    expect(bench.status & 64).toBe(0);
  });

  it('that comes once more beside a whole ring of others is shown apart from them', async () => {
    const { plan, clock, ask, bench, queue, device } = echo();
    plan.arm('completion.duplicate', { nth: 1, ms: 4 });
    ask(1);
    queue.reap();
    let put = 0;
    const { promise } = Promise.withResolvers<void>();
    device.onQueueOf = async (it) => {
      for (let chain = it.take(); chain; chain = it.take()) {
        it.put(chain);
        put++;
      }
      await promise;
    };
    for (let n = 0; n < 4; n++) queue.add([{ address: 0x2000, length: 1 }], []);
    queue.kick();
    expect(put).toBe(4);
    clock.advance(4 * MS);
    expect(device.failed).toBeUndefined();
    expect(bench.faults).toEqual([]);
    expect(bench.memory[queue.used + 2]).toBe(6);
  });

  it('that is late does not come after the driver has reset the device', () => {
    const { plan, clock, ask, bench, queue } = echo();
    plan.arm('completion.delay', { nth: 1, ms: 4 });
    ask(1);
    bench.status = 0;
    bench.negotiate([VERSION_1]);
    const again = new DriverQueue(bench, { size: 4, features: [VERSION_1] });
    bench.ready();
    clock.advance(1000 * MS);
    expect(queue.reap()).toEqual([]);
    expect(again.reap()).toEqual([]);
  });
});
