import { describe, expect, it } from 'vitest';
import { ManualClock, memoryBar, reg32 } from '../../../src/pci/index.ts';
import { LiveConfigSpace } from '../../../src/vfio-user/live-config-space.ts';
import { type Chain, VirtioFunction } from '../../../src/virtio/index.ts';
import {
  ACCESS_PLATFORM,
  ACKNOWLEDGE,
  Common,
  DRIVER,
  DRIVER_OK,
  EVENT_IDX,
  FEATURES_OK,
  INDIRECT,
  NEEDS_RESET,
  RING_RESET,
  VERSION_1,
  VirtioBench,
} from './bench.ts';
import { DriverQueue } from './driver-queue.ts';
import { Echo, TWICE, UPPER } from './echo.ts';

const NO_VECTOR = 0xffff;
const READY = ACKNOWLEDGE | DRIVER | FEATURES_OK;
const settled = () => new Promise<void>((resolve) => setImmediate(resolve));

function bench(features: readonly number[] = [VERSION_1]) {
  const device = new Echo({ clock: new ManualClock() });
  const link = new VirtioBench(device);
  link.negotiate(features);
  return { device, link };
}

function ask(queue: DriverQueue) {
  return queue.add([{ address: 9000, length: 4 }], [{ address: 9100, length: 4 }]);
}

describe('discovery', () => {
  it('is by vendor, device, revision and subsystem of a modern device', () => {
    const { device } = bench();
    const { vendor, device: id, revision, subsystem } = device.identity;
    expect([vendor, id, revision]).toEqual([0x1af4, 0x1040 + 42, 1]);
    expect(subsystem).toBeGreaterThanOrEqual(0x40);
  });

  it('finds each structure inside a BAR, apart from the others', () => {
    const { device, link } = bench();
    const extents = [1, 2, 3, 4].map((type) => {
      const found = link.structure(type);
      if (found === undefined) throw new Error(`no structure ${type}`);
      const { bar, offset, length } = found;
      expect(offset + length).toBeLessThanOrEqual(device.bars[bar]?.size ?? 0);
      return { bar, offset, end: offset + length };
    });
    for (const a of extents) {
      for (const b of extents) {
        if (a !== b && a.bar === b.bar) expect(a.offset >= b.end || b.offset >= a.end).toBe(true);
      }
    }
    // capacity, mode and count of the echo device
    expect(link.structure(4)?.length).toBe(16);
    const multiplier = link.structure(2)?.more ?? 0;
    expect(link.structure(2)?.length).toBeGreaterThanOrEqual(multiplier + 2);
  });

  it('finds no device configuration where the device has none', () => {
    class Bare extends VirtioFunction {
      static override readonly virtio = { type: 1, queues: [{ name: 'only', size: 1 }] };
      override onQueue() {}
    }
    const link = new VirtioBench(new Bare());
    expect(link.structure(4)).toBeUndefined();
    expect(link.device.interruptVectors).toEqual({ intx: 1, msi: 0, msix: 2 });
  });

  it.each([
    ['a type', { type: 0, queues: [{ name: 'a', size: 2 }] }, /device type from 1 to 63/],
    ['queues', { type: 1, queues: [] }, /1 to 1024 queues/],
    ['a size', { type: 1, queues: [{ name: 'a', size: 3 }] }, /'a' to be a power of two/],
    [
      'features',
      { type: 1, features: [32], queues: [{ name: 'a', size: 2 }] },
      /of the device type/,
    ],
  ])('refuses a class without %s that can be', (_, declared, message) => {
    class Wrong extends VirtioFunction {
      static override readonly virtio = declared;
      override onQueue() {}
    }
    expect(() => new VirtioBench(new Wrong())).toThrow(message);
  });
});

it('keeps a BAR for the configuration fields', () => {
  class Crossed extends Echo {
    readonly bar1 = memoryBar(4096, { word: reg32(0) });
  }
  expect(() => new VirtioBench(new Crossed())).toThrow(
    /'bar1' is BAR 1, which is declared already/,
  );
  class Misnamed extends Echo {
    readonly settings = memoryBar(4096, { word: reg32(0) });
  }
  expect(() => new VirtioBench(new Misnamed())).toThrow(/bar0 to bar5 or config, got 'settings'/);
});

describe('features', () => {
  it('are offered with those of transport and rings', () => {
    const { link } = bench();
    const bits = [UPPER, TWICE, INDIRECT, EVENT_IDX, VERSION_1, ACCESS_PLATFORM, RING_RESET];
    expect(link.negotiate([VERSION_1])).toBe(bits.reduce((set, n) => set | (1n << BigInt(n)), 0n));
    link.write(Common.deviceFeatureSelect, 4);
    expect(link.read(Common.deviceFeature)).toBe(0);
  });

  it('are settled by FEATURES_OK', () => {
    const { device, link } = bench([VERSION_1, UPPER, TWICE]);
    expect(link.status).toBe(READY);
    expect([UPPER, TWICE, EVENT_IDX].map((n) => device.has(n))).toEqual([true, true, false]);
    link.write(Common.driverFeatureSelect, 0);
    link.write(Common.driverFeature, 0);
    expect(link.read(Common.driverFeature)).toBe(1 << UPPER);
  });

  it.each([
    ['VERSION_1 is missing', [UPPER]],
    ['some were not offered', [VERSION_1, 5]],
    ['the device says that they do not fit', [VERSION_1, TWICE]],
  ])('are refused where %s', (_, features) => {
    const { device, link } = bench(features);
    expect(link.status).toBe(ACKNOWLEDGE | DRIVER);
    link.ready();
    expect(link.status & DRIVER_OK).toBe(0);
    expect(device.has(VERSION_1)).toBe(false);
    expect(device.log).not.toContain('driver ok');
  });
});

describe('the queue registers', () => {
  it('show the selected queue, and size 0 where there is none', () => {
    const { link } = bench();
    expect(link.read(Common.numQueues, 2)).toBe(2);
    const sizes = [0, 1, 2, 0xffff].map((queue) => {
      link.write(Common.queueSelect, queue, 2);
      return link.read(Common.queueSize, 2);
    });
    expect(sizes).toEqual([256, 1024, 0, 0]);
    link.write(Common.queueSize, 8, 2);
    link.write(Common.queueEnable, 1, 2);
    expect(link.read(Common.queueEnable, 2)).toBe(0);
  });

  it('take a size that is a power of two and at most the largest', () => {
    const { link } = bench();
    link.write(Common.queueSelect, 0, 2);
    const taken = [128, 3, 0, 512, 1, 64].map((size) => {
      link.write(Common.queueSize, size, 2);
      return link.read(Common.queueSize, 2);
    });
    expect(taken).toEqual([128, 128, 128, 128, 1, 64]);
  });

  it('keep addresses apart, by halves, and hold them once enabled', () => {
    const { link } = bench();
    for (const queue of [0, 1]) {
      link.write(Common.queueSelect, queue, 2);
      link.write(Common.queueDesc, 0x1000 * (queue + 1));
      link.write(Common.queueDesc + 4, queue + 7);
    }
    link.write(Common.queueSelect, 0, 2);
    expect(link.readWide(Common.queueDesc)).toBe(0x7_0000_1000n);
    link.write(Common.queueEnable, 1, 2);
    link.write(Common.queueDesc, 0);
    link.write(Common.queueSize, 4, 2);
    expect(link.readWide(Common.queueDesc)).toBe(0x7_0000_1000n);
    expect(link.read(Common.queueSize, 2)).toBe(256);
    link.write(Common.queueEnable, 0, 2);
    expect(link.read(Common.queueEnable, 2)).toBe(1);
    link.write(Common.queueSelect, 1, 2);
    expect(link.readWide(Common.queueDesc)).toBe(0x8_0000_2000n);
  });

  it('take a vector that the function has, and NO_VECTOR for others', () => {
    const { link } = bench();
    link.write(Common.queueSelect, 1, 2);
    for (const register of [Common.queueVector, Common.configVector]) {
      expect(link.read(register, 2)).toBe(NO_VECTOR);
      const taken = [2, 3, 0, NO_VECTOR].map((vector) => {
        link.write(register, vector, 2);
        return link.read(register, 2);
      });
      expect(taken).toEqual([2, NO_VECTOR, 0, NO_VECTOR]);
    }
  });

  it.each([
    ['descriptors', Common.queueDesc, 8],
    ['the available ring', Common.queueDriver, 1],
    ['the used ring', Common.queueDevice, 2],
  ])('refuse a place of %s that is not aligned', (_, register, address) => {
    const { link } = bench();
    link.write(Common.queueSelect, 0, 2);
    link.write(register, address);
    link.write(Common.queueEnable, 1, 2);
    expect(link.status & NEEDS_RESET).toBe(NEEDS_RESET);
  });
});

describe('the device status', () => {
  it('lets nothing be consumed before DRIVER_OK, and misses nothing that came before', () => {
    const { device, link } = bench();
    const queue = new DriverQueue(link, { size: 8, features: [VERSION_1] });
    ask(queue);
    queue.kick();
    expect([device.calls, queue.reap().length, link.dma.accesses]).toEqual([0, 0, 0]);
    expect(device.echo.live).toBe(false);
    link.ready();
    expect(device.echo.live).toBe(true);
    expect(queue.reap()).toHaveLength(1);
    expect(device.log).toContain('driver ok');
  });

  it('keeps bits that the driver tries to take back', () => {
    const { link } = bench();
    link.status = ACKNOWLEDGE;
    expect(link.status).toBe(READY);
    link.status = NEEDS_RESET | READY;
    expect(link.status).toBe(READY);
  });

  it('resets the device by 0: nothing of before has an effect', async () => {
    const { device, link } = bench();
    const queue = new DriverQueue(link, { size: 8, features: [VERSION_1], index: 1 });
    link.ready();
    ask(queue);
    queue.kick();
    const [chain] = device.held;
    if (chain === undefined) throw new Error('expected a chain');
    const sleep = device.sleepLong();
    link.write(Common.configVector, 2, 2);
    const before = link.memory.slice();
    link.status = 0;
    expect(link.status).toBe(0);
    expect(await sleep).toBe('ResetAbort');
    expect(device.log.at(-1)).toBe('reset: driver');
    expect(device.later.live).toBe(false);
    expect(() => chain.write(Uint8Array.of(1))).toThrow(/reset/);
    expect(() => chain.read()).toThrow(/reset/);
    expect(() => device.later.put(chain)).toThrow(/reset/);
    device.later.flush();
    expect(device.later.take()).toBeUndefined();
    expect(link.memory).toEqual(before);
    expect(link.read(Common.queueSize, 2)).toBe(256);
    expect(link.read(Common.queueEnable, 2)).toBe(0);
    expect(link.read(Common.configVector, 2)).toBe(NO_VECTOR);
    expect(device.has(VERSION_1)).toBe(false);
    // The same head, from a driver that begins anew, is another chain.
    link.negotiate([VERSION_1]);
    const again = new DriverQueue(link, { size: 8, features: [VERSION_1], index: 1 });
    link.ready();
    ask(again);
    again.kick();
    expect(() => device.later.put(chain)).toThrow(/reset/);
    device.release([0]);
    expect(again.reap()).toHaveLength(1);
    expect(device.failed).toBeUndefined();
  });

  it('is 0 after a reset of the function, with its configuration as declared', () => {
    const { device, link } = bench();
    device.grow();
    device.reset('function-level');
    expect([link.status, device.config.count]).toEqual([0, 0]);
    expect(device.log.at(-1)).toBe('reset: function-level');
    expect(link.negotiate([VERSION_1])).not.toBe(0n);
    expect(link.status).toBe(READY);
  });

  it('asks for a reset with a configuration interrupt, and stands still until then', () => {
    const { device, link } = bench();
    link.write(Common.configVector, 2, 2);
    const queue = new DriverQueue(link, { size: 8, features: [VERSION_1] });
    link.ready();
    device.giveUp();
    device.giveUp();
    expect(link.status).toBe(READY | DRIVER_OK | NEEDS_RESET);
    expect(link.interrupts.messages).toEqual([2]);
    expect(link.faults.map(String)).toEqual(['RingError: the device gives up']);
    const { accesses } = link.dma;
    ask(queue);
    queue.kick();
    expect(link.dma.accesses).toBe(accesses);
    link.negotiate([VERSION_1]);
    const again = new DriverQueue(link, { size: 8, features: [VERSION_1] });
    link.ready();
    ask(again);
    again.kick();
    expect(again.reap()).toHaveLength(1);
  });
});

describe('a queue reset', () => {
  it('voids the chains of that queue alone, which then starts anew', () => {
    const features = [VERSION_1, RING_RESET];
    const { device, link } = bench(features);
    const first = new DriverQueue(link, { size: 8, features, index: 0 });
    const later = new DriverQueue(link, { size: 8, features, index: 1, base: 4096 });
    link.ready();
    ask(later);
    ask(later);
    later.kick();
    const [chain] = device.held;
    link.write(Common.queueSelect, 1, 2);
    link.write(Common.queueReset, 1, 2);
    expect(link.read(Common.queueReset, 2)).toBe(0);
    expect(link.read(Common.queueEnable, 2)).toBe(0);
    expect(device.log.at(-1)).toBe('queue reset: later');
    expect(() => chain?.read()).toThrow(/reset/);
    expect([device.later.live, device.later.inFlight, device.echo.live]).toEqual([false, 0, true]);
    device.held.length = 0;
    ask(first);
    first.kick();
    expect(first.reap()).toHaveLength(1);
    const again = new DriverQueue(link, { size: 16, features, index: 1, base: 4096 });
    ask(again);
    again.kick();
    device.release([0]);
    expect(again.reap()).toHaveLength(1);
    expect(device.later.size).toBe(16);
  });

  it('is nothing where it was not negotiated', () => {
    const { device, link } = bench();
    new DriverQueue(link, { size: 8, features: [VERSION_1] });
    link.ready();
    link.write(Common.queueSelect, 0, 2);
    link.write(Common.queueReset, 1, 2);
    expect([device.echo.live, link.read(Common.queueEnable, 2)]).toEqual([true, 1]);
  });
});

describe('interrupts', () => {
  it('go by no vector where the driver wants none', () => {
    const { device, link } = bench();
    const queue = new DriverQueue(link, { size: 8, features: [VERSION_1], vector: NO_VECTOR });
    link.ready();
    ask(queue);
    queue.kick();
    device.grow();
    expect(queue.reap()).toHaveLength(1);
    expect(link.interrupts.messages).toEqual([]);
    expect(link.interrupts.level).toBe(false);
  });

  it('are a level without MSI-X, told apart and lowered by a read of ISR status', () => {
    const { device, link } = bench();
    link.interrupts.mode = 'intx';
    const isr = link.structure(3);
    const readIsr = () => link.read(isr?.offset ?? 0, 1, isr?.bar);
    const queue = new DriverQueue(link, { size: 8, features: [VERSION_1], vector: NO_VECTOR });
    link.ready();
    expect(readIsr()).toBe(0);
    ask(queue);
    queue.kick();
    expect(link.interrupts.level).toBe(true);
    expect(readIsr()).toBe(1);
    expect([link.interrupts.level, readIsr()]).toEqual([false, 0]);
    device.grow();
    ask(queue);
    queue.kick();
    expect([link.interrupts.level, readIsr(), readIsr()]).toEqual([true, 3, 0]);
    ask(queue);
    queue.kick();
    link.status = 0;
    expect([link.interrupts.level, readIsr()]).toEqual([false, 0]);
  });
});

describe('the device configuration', () => {
  it('is read by any width and written where it may be', () => {
    const { device, link } = bench();
    const bar = link.structure(4)?.bar ?? 0;
    expect(link.readWide(0, 8, bar)).toBe(0x1122_3344_5566_7788n);
    expect(link.read(4, 4, bar)).toBe(0x1122_3344);
    expect(link.read(0, 1, bar)).toBe(0x88);
    expect(link.read(6, 2, bar)).toBe(0x1122);
    link.write(8, 9, 1, bar);
    link.write(0, 1, 4, bar);
    expect([device.config.mode, device.config.capacity]).toEqual([9, 0x1122_3344_5566_7788n]);
    expect(device.log).toContain('mode 9');
    expect(link.accesses).toEqual([]);
  });

  it('has a generation that moves on when something that was read has changed', () => {
    const { device, link } = bench();
    link.write(Common.configVector, 1, 2);
    const bar = link.structure(4)?.bar ?? 0;
    const generation = () => link.read(Common.generation, 1);
    link.read(12, 4, bar);
    const before = generation();
    link.read(12, 4, bar);
    expect(generation()).toBe(before);
    link.ready();
    // As many as an 8-bit count forgets.
    for (let n = 0; n < 256; n++) device.grow();
    expect(link.read(12, 4, bar)).toBe(256);
    expect(generation()).not.toBe(before);
    expect(link.interrupts.messages).toEqual(Array(256).fill(1));
  });
});

describe('the access capability in configuration space', () => {
  function window() {
    const { device, link } = bench();
    const config = new LiveConfigSpace(device, {
      busMaster: () => {},
      reset: () => {},
      intxDisable: () => {},
    });
    const read = (at: number, width: number) => {
      const bytes = new Uint8Array(width);
      config.read(at, bytes);
      return bytes.reduceRight((sum, byte) => sum * 256 + byte, 0);
    };
    let at = read(0x34, 1);
    while (read(at, 1) !== 9 || read(at + 3, 1) !== 5) at = read(at + 1, 1);
    const put = (offset: number, value: number, width: number) => {
      const bytes = new Uint8Array(4);
      new DataView(bytes.buffer).setUint32(0, value, true);
      config.write(at + offset, bytes.subarray(0, width));
    };
    const aim = (bar: number, offset: number, length: number) => {
      put(4, bar, 1);
      put(8, offset, 4);
      put(12, length, 4);
    };
    return { link, aim, put, data: (width: number) => read(at + 16, width) };
  }

  it('reaches what the BARs hold', () => {
    const { link, aim, put, data } = window();
    aim(0, Common.numQueues, 2);
    expect(data(2)).toBe(2);
    aim(0, Common.status, 1);
    expect(data(1)).toBe(READY);
    put(16, 0, 1);
    expect(link.status).toBe(0);
    aim(0, Common.queueDesc, 4);
    put(16, 0x1234_5000, 4);
    expect(link.read(Common.queueDesc)).toBe(0x1234_5000);
    expect(data(4)).toBe(0x1234_5000);
  });

  it.each([
    ['a BAR that is not there', 5, 0, 4],
    ['a place behind the BAR', 0, 0x4000, 4],
    ['a length of 3', 0, 0, 3],
    ['a place not aligned', 0, 2, 4],
    ['an offset near 2^32', 0, 0xffff_fffc, 4],
  ])('does nothing for %s', (_, bar, offset, length) => {
    const { link, aim, put, data } = window();
    link.write(Common.deviceFeatureSelect, 0x77);
    aim(bar, offset, length);
    put(16, 0xffff_ffff, 4);
    expect(data(4)).toBe(0);
    expect(link.read(Common.deviceFeatureSelect)).toBe(0x77);
  });
});

describe('a handler', () => {
  it('that is asynchronous runs once at a time, and again for what came meanwhile', async () => {
    const { device, link } = bench([VERSION_1, EVENT_IDX]);
    const queue = new DriverQueue(link, { size: 16, features: [VERSION_1, EVENT_IDX] });
    let running = 0;
    device.onChain = async (chain, own) => {
      expect(++running).toBe(1);
      await settled();
      own.put(chain, 0);
      running--;
    };
    link.ready();
    for (let n = 0; n < 5; n++) {
      ask(queue);
      queue.kick();
    }
    for (let turn = 0; turn < 50 && queue.pending.size > 0; turn++) {
      await settled();
      queue.reap();
    }
    expect(queue.pending.size).toBe(0);
    expect(link.faults).toEqual([]);
  });

  it('that hangs holds up nothing after a reset', async () => {
    const { device, link } = bench();
    const queue = new DriverQueue(link, { size: 8, features: [VERSION_1] });
    link.ready();
    await settled();
    let goOn = () => {};
    device.onChain = (chain, own) =>
      new Promise<void>((resolve) => {
        goOn = () => {
          own.put(chain);
          resolve();
        };
      });
    ask(queue);
    queue.kick();
    device.onChain = undefined;
    link.negotiate([VERSION_1]);
    const again = new DriverQueue(link, { size: 8, features: [VERSION_1] });
    link.ready();
    ask(again);
    again.kick();
    expect(again.reap()).toHaveLength(1);
    expect(() => goOn()).toThrow(/reset/);
    await settled();
    expect(device.failed).toBeUndefined();
    expect(link.faults).toEqual([]);
  });

  it('that throws is a bug of the device, in time and later', async () => {
    for (const later of [false, true]) {
      const { device, link } = bench();
      const queue = new DriverQueue(link, { size: 8, features: [VERSION_1] });
      link.ready();
      await settled();
      device.onChain = () => {
        const bug = new Error('a bug');
        if (later) return Promise.reject(bug);
        throw bug;
      };
      ask(queue);
      queue.kick();
      await settled();
      expect(device.failed?.message).toBe('a bug');
      expect(link.read(0)).toBe(0xffff_ffff);
    }
  });

  it('that meets a void chain of another queue is called again for what it has left', async () => {
    for (const async of [false, true]) {
      const features = [VERSION_1, RING_RESET, EVENT_IDX];
      const { device, link } = bench(features);
      const queue = new DriverQueue(link, { size: 8, features });
      const later = new DriverQueue(link, { size: 8, features, index: 1, base: 4096 });
      link.ready();
      await settled();
      ask(later);
      later.kick();
      link.write(Common.queueSelect, 1, 2);
      link.write(Common.queueReset, 1, 2);
      device.onQueueOf = (own) => {
        const chain = own.take();
        if (chain === undefined) return;
        own.put(chain, 0);
        if (!async) device.later.put(device.held[0] as Chain);
        return Promise.resolve().then(() => device.later.put(device.held[0] as Chain));
      };
      for (let n = 0; n < 3; n++) ask(queue);
      queue.kick();
      for (let turn = 0; turn < 20; turn++) await settled();
      expect(queue.reap()).toHaveLength(3);
      expect(queue.mustNotify()).toBe(false);
      ask(queue);
      queue.kick();
      for (let turn = 0; turn < 20; turn++) await settled();
      expect(queue.reap()).toHaveLength(1);
      expect(device.failed).toBeUndefined();
    }
  });

  it('that passes on a refused DMA makes the device ask for a reset', async () => {
    const { device, link } = bench();
    const queue = new DriverQueue(link, { size: 8, features: [VERSION_1] });
    link.ready();
    queue.add([{ address: 2 ** 30, length: 4 }], [{ address: 9100, length: 4 }]);
    queue.kick();
    await settled();
    expect(link.status & NEEDS_RESET).toBe(NEEDS_RESET);
    expect(link.faults.map((fault) => fault.name)).toEqual(['DmaAbort']);
    expect(device.failed).toBeUndefined();
  });
});
