import { readdirSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import { Adder } from '../../../examples/adder/adder.ts';
import type { HostedVmm, HostOptions } from '../../../src/client/hosted-vmm.ts';
import { Vmm } from '../../../src/client/vmm.ts';
import { Edu } from '../../../src/devices/edu/edu.ts';
import type { PciEndpoint } from '../../../src/pci/endpoint.ts';
import {
  bit,
  bits,
  memoryBar,
  PciFunction,
  ram,
  reg8,
  reg16,
  reg32,
  reg64,
  regArray,
  ro,
} from '../../../src/pci/index.ts';
import { Trace } from '../../../src/trace/trace.ts';
import { noSealedRam } from '../memory/sealed-bench.ts';

const ends: AsyncDisposable[] = [];
afterEach(async () => {
  for (const one of ends.splice(0).reverse()) await one[Symbol.asyncDispose]();
});

async function hosted<Device extends PciEndpoint>(device: Device, options: HostOptions = {}) {
  const vmm = await Vmm.host(device, { log: () => {}, ...options });
  ends.push(vmm);
  return vmm;
}

async function sum(vmm: HostedVmm<Adder>, bytes: Uint8Array): Promise<number> {
  const buffer = vmm.memory.allocate(bytes);
  await vmm.bar0.write('source', buffer.gpa);
  await vmm.bar0.write('length', buffer.length);
  await vmm.bar0.write('control', { go: true });
  await vmm.interrupt(0).next();
  return await vmm.bar0.read('sum');
}

const modes = [
  ['plain', undefined],
  ['sealed', noSealedRam()],
] as const;

describe.each(modes)('a device hosted in %s memory', (memory, missing) => {
  test.skipIf(missing !== undefined)(
    'it does DMA from and to memory, and its interrupts come',
    async () => {
      const vmm = await hosted(new Adder(), { memory });
      expect(await sum(vmm, Uint8Array.of(1, 2, 3, 250))).toBe(256);
      expect(await vmm.bar0.read('control')).toEqual({
        go: false,
        done: true,
        error: false,
        value: 2,
      });
      expect(await sum(vmm, Uint8Array.of(9))).toBe(9);
      expect(vmm.interrupt(0).count).toBe(2);
      expect(vmm.faults.total).toBe(0);

      const edu = await vmm.plug(new Edu({ dmaMask: (1n << 40n) - 1n }));
      ends.push(edu);
      const from = vmm.memory.allocate(new TextEncoder().encode('through the buffer of edu'));
      const to = vmm.memory.allocate(from.length);
      const move = async (source: number, destination: number, toRam: boolean) => {
        await edu.bar0.write('dmaSource', source);
        await edu.bar0.write('dmaDestination', destination);
        await edu.bar0.write('dmaCount', from.length);
        await edu.bar0.write('dmaCommand', { start: true, toRam, interruptWhenDone: true });
        await edu.interrupt().next();
        await edu.bar0.write('interruptAcknowledge', await edu.bar0.read('interruptStatus'));
      };
      await move(from.gpa, 0x40000, false);
      await move(0x40000, to.gpa, true);
      expect(new TextDecoder().decode(to.bytes())).toBe('through the buffer of edu');
      expect(edu.memory).toBe(vmm.memory);
    },
  );
});

describe('registers by name', () => {
  class Named extends PciFunction {
    static override readonly id = { vendor: 0x1b36, device: 0x5eb2, class: 0xff0000 };
    readonly bar2 = memoryBar(4096, {
      flags: reg16(0x00, { on: bit(0), mode: bits(3, 1), odd: bits(4, 4), busy: ro(bit(15)) }),
      small: reg8(0x02),
      word: reg32(0x04, { reset: 0x1234 }),
      wide: reg64(0x08, { low: bits(39, 0), top: bit(63) }),
      doorbell: regArray(4, reg32(0x20), { stride: 8 }),
      window: ram(0x100, 64),
    });
  }

  test('each width, fields, and elements of arrays are read and written as the device has them', async () => {
    const device = new Named();
    const { bar2 } = await hosted(device);
    expect(await bar2.read('word')).toBe(0x1234);
    await bar2.write('word', 0xffff_ffff);
    await bar2.write('small', 0x7f);
    await bar2.write('flags', { on: true, mode: 5, odd: 1 });
    await bar2.write('wide', { low: 2 ** 39, top: true });
    await bar2.write('doorbell[3]', 77);
    expect([device.bar2.word, device.bar2.small, device.bar2.doorbell[3]]).toEqual([
      0xffff_ffff, 0x7f, 77,
    ]);
    expect(await bar2.read('flags')).toEqual({
      ...{ on: true, mode: 5, odd: 1, busy: false, value: 0x1b },
    });
    expect(await bar2.read('wide')).toEqual({
      ...{ low: 2 ** 39, top: true, value: 0x8000_0080_0000_0000n },
    });
    expect(await bar2.read('doorbell[3]')).toBe(77);
    // Fields that are left out are 0, as a driver's constant has them.
    await bar2.write('flags', { mode: 1 });
    expect(await bar2.read16(0)).toBe(2);
    await bar2.write('flags', 1);
    expect(device.bar2.flags.on).toBe(true);
    await bar2.writeBytes(0x100, Uint8Array.of(1, 2, 3));
    expect([...device.bar2.window.subarray(0, 4)]).toEqual([1, 2, 3, 0]);
  });

  test('a name that is not there, or a value that does not fit, is told before anything is sent', async () => {
    const vmm = await hosted(new Named());
    const bar = vmm.bar(2);
    await expect(bar.read('wrod')).rejects.toThrow(/got 'wrod': flags, small, word/);
    await expect(bar.read('doorbell')).rejects.toThrow(/such as 'doorbell\[0\]'/);
    await expect(bar.read('doorbell[4]')).rejects.toThrow(/doorbell\[0…3\]/);
    await expect(bar.read('window')).rejects.toThrow(/use readBytes/);
    await expect(bar.write('flags', { onn: true })).rejects.toThrow(/on, mode, odd, busy/);
    await expect(bar.write('flags', { mode: 8 })).rejects.toThrow(/3 bits for field 'mode'/);
    await expect(bar.write('flags', { mode: Number.NaN })).rejects.toThrow(RangeError);
    await expect(bar.write('small', 256)).rejects.toThrow(/0 to 2\^8/);
    await expect(bar.read32(0xffd)).rejects.toThrow(/inside BAR2's 0x1000 bytes/);
    await expect(bar.write64(0x1000, 0n)).rejects.toThrow(RangeError);
    await expect(bar.read8(-1)).rejects.toThrow(RangeError);
    await expect(vmm.bar0.read32(0)).rejects.toThrow(/BAR0, which it has not/);
    expect(() => vmm.bar(6)).toThrow(/BAR from 0 to 5/);
  });

  test('a long access goes in several messages', async () => {
    class Big extends PciFunction {
      static override readonly id = { vendor: 0x1b36, device: 0x5eb3, class: 0xff0000 };
      readonly bar0 = memoryBar(256 * 1024, { window: ram(0, 256 * 1024) });
    }
    const vmm = await hosted(new Big());
    const bytes = Uint8Array.from({ length: 200_001 }, (_, i) => (i * 31) ^ (i >> 8));
    await vmm.bar0.writeBytes(5, bytes);
    expect(Buffer.compare(await vmm.bar0.readBytes(5, bytes.length), bytes)).toBe(0);
  });
});

describe('interrupts, resets, and what enables them', () => {
  test('each kind that a device has can be chosen, and one that it has not is refused', async () => {
    for (const kind of ['msi', 'intx'] as const) {
      const vmm = await hosted(new Edu(), { interrupts: kind });
      expect(vmm.interruptKind).toBe(kind);
      for (const round of [1, 2]) {
        await vmm.bar0.write('interruptRaise', 1);
        await vmm.interrupt().next();
        expect(vmm.interrupt().count).toBe(round);
        await vmm.bar0.write('interruptAcknowledge', 1);
      }
    }
    const best = await hosted(new Edu());
    expect(best.interruptKind).toBe('msi');
    const none = await hosted(new Edu(), { interrupts: 'none' });
    expect(() => none.interrupt()).toThrow(/whose interrupts are taken/);
    await expect(Vmm.host(new Edu(), { interrupts: 'msix' })).rejects.toThrow(
      /with msix interrupts, got one with msi and intx/,
    );
    expect(() => best.interrupt(1)).toThrow(/MSI vector 0 to 0, got 1/);
  });

  test('whoever waits for the next one waits for one of its own', async () => {
    const vmm = await hosted(new Edu());
    const order: number[] = [];
    const waiting = [0, 1].map(async (n) => {
      await vmm.interrupt().next();
      order.push(n);
    });
    await vmm.bar0.write('interruptRaise', 1);
    await vmm.interrupt().reach(1);
    await expect.poll(() => order).toEqual([0]);
    await vmm.bar0.write('interruptRaise', 2);
    await Promise.all(waiting);
    await expect(vmm.interrupt().next(5)).rejects.toThrow(/expected 3 of/);
    await vmm.bar0.write('interruptRaise', 4);
    await vmm.interrupt().next();
  });

  test('vectors beyond those that are taken say how to take them', async () => {
    class Many extends PciFunction {
      static override readonly id = { vendor: 0x1b36, device: 0x5eb4, class: 0xff0000 };
      static override readonly interrupts = { msix: 100 };
      readonly bar0 = memoryBar(16, {
        raise: reg32(0, { onWrite: (vector) => this.msix.raise(vector) }),
      });
    }
    const few = await hosted(new Many());
    await few.bar0.write('raise', 31);
    await few.interrupt(31).next();
    expect(() => few.interrupt(32)).toThrow(/vectors: 33 takes it too/);
    const all = await hosted(new Many(), { vectors: 2048 });
    await all.bar0.write('raise', 99);
    await all.interrupt(99).next();
    expect(() => all.interrupt(100)).toThrow(/MSI-X vector 0 to 99, got 100$/);
    await expect(Vmm.host(new Many(), { vectors: 0 })).rejects.toThrow(/1 to 2048 vectors/);
  });

  test('a wait that ends without an interrupt names it, and why the device may be silent', async () => {
    const vmm = await hosted(new Adder(), { enable: false });
    await vmm.bar0.write('source', vmm.memory.gpa);
    await vmm.bar0.write('length', 4);
    await vmm.bar0.write('control', { go: true });
    await expect(vmm.interrupt(0).next(20)).rejects.toThrow(
      'expected an interrupt (MSI-X vector 0) within 20 ms, got none; the IOMMU refused 1 of its DMA, ' +
        'at last a read of 4 bytes at 0x100000: bus-master-disabled',
    );
    await vmm.enable();
    await vmm.bar0.write('control', { go: true });
    await vmm.interrupt(0).next();
    await expect(vmm.interrupt(0).reach(3, 10)).rejects.toThrow(
      'expected 3 of an interrupt (MSI-X vector 0) within 10 ms, got 1',
    );
  });

  test('a device that failed is named where its interrupt does not come', async () => {
    class Broken extends Adder {
      override async run() {
        throw new Error('out of order');
      }
    }
    const vmm = await hosted(new Broken());
    await vmm.bar0.write('control', { go: true });
    await expect(vmm.interrupt(0).next(20)).rejects.toThrow(/the device has failed: out of order/);
    expect(await vmm.bar0.read32(0x14)).toBe(0xffff_ffff);
  });

  test('after either reset nothing is enabled; enable() is a driver’s probe', async () => {
    const vmm = await hosted(new Adder());
    for (const reset of [() => vmm.reset(), () => vmm.functionLevelReset()]) {
      await vmm.bar0.write('length', 5);
      await reset();
      expect(await vmm.bar0.read('length')).toBe(0);
      expect(vmm.plugged.port.busMaster).toBe(false);
      await vmm.bar0.write('length', 1);
      await vmm.bar0.write('control', { go: true });
      await expect.poll(() => vmm.faults.total).toBeGreaterThan(0);
      const { count } = vmm.interrupt(0);
      await vmm.enable();
      await vmm.bar0.write('source', vmm.memory.gpa);
      await vmm.bar0.write('control', { go: true });
      await vmm.interrupt(0).reach(count + 1);
      expect((await vmm.bar0.read('control')).error).toBe(false);
    }
    const edu = await hosted(new Edu());
    await expect(edu.functionLevelReset()).rejects.toThrow(/reset\(\) resets the device/);
  });

  test('configuration space is there: identity, capabilities, bits that a driver writes', async () => {
    const vmm = await hosted(new Edu());
    expect(await vmm.identity()).toEqual({
      ...{ vendor: 0x1234, device: 0x11e8, revision: 0x10, classCode: 0x00ff00 },
      ...{ subsystemVendor: 0x1af4, subsystem: 0x1100 },
    });
    const msi = await vmm.config.capability('msi');
    expect(msi).toBe(await vmm.config.capability(5));
    expect(await vmm.config.capability('express')).toBeUndefined();
    expect((await vmm.config.read16((msi ?? 0) + 2)) & 1).toBe(1);
    expect((await vmm.config.read16(4)) & 4).toBe(4);
  });
});

describe('what a function reaches', () => {
  test('behind an IOMMU for buffers it reaches those that are allocated, and none that is freed', async () => {
    const vmm = await hosted(new Adder(), { iommu: 'buffers' });
    const run = async (gpa: number, length: number) => {
      await vmm.bar0.write('source', gpa);
      await vmm.bar0.write('length', length);
      await vmm.bar0.write('control', { go: true });
      await vmm.interrupt(0).next();
      return (await vmm.bar0.read('control')).error;
    };
    const buffer = vmm.memory.allocate(Uint8Array.of(1, 2, 3));
    expect(await run(buffer.gpa, 3)).toBe(false);
    expect(await run(buffer.gpa, 4097)).toBe(true);
    const writable = vmm.memory.allocate(8, { rights: 'write' });
    expect(await run(writable.gpa, 1)).toBe(true);
    buffer.free();
    expect(await run(buffer.gpa, 3)).toBe(true);
    expect(vmm.faults.records.map(({ reason }) => reason)).toEqual([
      ...['unmapped', 'no-read-permission', 'unmapped'],
    ]);
  });

  test('buffers that share a page are mapped until the last of them is freed', async () => {
    const vmm = await hosted(new Adder(), { iommu: 'buffers' });
    const [first, second] = [1, 2].map(() => vmm.memory.allocate(16, { align: 16 }));
    if (first === undefined || second === undefined) throw new Error('expected two buffers');
    expect(second.gpa - first.gpa).toBe(16);
    expect(await sum(vmm, Uint8Array.of(7))).toBe(7);
    second.write8(0, 5);
    first.free();
    await vmm.bar0.write('source', second.gpa);
    await vmm.bar0.write('length', 1);
    await vmm.bar0.write('control', { go: true });
    await vmm.interrupt(0).next();
    expect(await vmm.bar0.read('sum')).toBe(5);
    second.free();
    await vmm.bar0.write('control', { go: true });
    await vmm.interrupt(0).next();
    expect((await vmm.bar0.read('control')).error).toBe(true);
  });

  test('functions of one machine have places of their own; one that is taken is refused', async () => {
    const vmm = await hosted(new Adder(), { address: '00:1f.0' });
    expect(vmm.rid).toBe(0x1f << 3);
    const other = await vmm.plug(new Adder());
    ends.push(other);
    expect(other.rid).toBe(5 << 3);
    await expect(vmm.plug(new Adder(), { address: '00:05.0' })).rejects.toThrow(/taken/);
    expect(await sum(other, Uint8Array.of(4))).toBe(4);
    expect(vmm.interrupt(0).count).toBe(0);
  });

  test('instruments stand around it', async () => {
    const trace = new Trace();
    const vmm = await hosted(new Adder(), { instruments: [trace] });
    await sum(vmm, Uint8Array.of(1));
    const kinds = trace.events.map(({ kind }) => kind);
    expect(kinds).toEqual([
      ...['function', 'register', 'register', 'register', 'dma', 'interrupt-mode', 'interrupt'],
      'register',
    ]);
  });
});

describe('coming, going, and what is left', () => {
  test('a disconnected device is reset; reconnect() finds it as new, in the same memory', async () => {
    const vmm = await hosted(new Adder());
    const waiting = expect(vmm.interrupt(0).next()).rejects.toThrow(/has disconnected/);
    await vmm.bar0.write('length', 3);
    await vmm.disconnect();
    await waiting;
    expect(vmm.connected).toBe(false);
    await expect(vmm.bar0.read('length')).rejects.toThrow(/reconnect\(\) comes back/);
    await vmm.reconnect();
    expect(await vmm.bar0.read('length')).toBe(0);
    expect(await sum(vmm, Uint8Array.of(3, 4))).toBe(7);
    await vmm.reconnect();
    expect(await sum(vmm, Uint8Array.of(1))).toBe(1);
  });

  test('a hundred accesses at once are answered each in its place', async () => {
    const vmm = await hosted(new Edu());
    const answers = await Promise.all(
      Array.from({ length: 100 }, async (_, value) => {
        const written = vmm.bar0.write('liveness', value);
        const read = vmm.bar0.read('liveness');
        await written;
        return await read;
      }),
    );
    expect(answers).toEqual(Array.from({ length: 100 }, (_, value) => ~value >>> 0));
  });

  test('nothing is left of one that has ended: no descriptor, no socket, no waiter', async () => {
    const descriptors = () => readdirSync('/proc/self/fd').length;
    const use = async () => {
      await using vmm = await Vmm.host(new Adder(), { log: () => {} });
      expect(await sum(vmm, Uint8Array.of(1))).toBe(1);
      await using second = await vmm.plug(new Edu());
      await second.bar0.read('identification');
      return vmm;
    };
    await use();
    const before = descriptors();
    const ended = await use();
    await expect(Vmm.host(new Edu(), { interrupts: 'msix' })).rejects.toThrow();
    expect(descriptors()).toBe(before);
    await expect(ended.bar0.read32(0)).rejects.toThrow(/has ended/);
    await expect(ended.reconnect()).rejects.toThrow(/has not ended/);
    expect(() => ended.memory.read(ended.memory.gpa, 1)).toThrow(/has ended/);
    await ended[Symbol.asyncDispose]();
  });

  test('its machine boots no guest: it was not given what a guest needs', async () => {
    const { machine } = await hosted(new Edu());
    await expect(machine.boot()).rejects.toThrow(/got a machine made with libvfio-user alone/);
    expect(() => machine.plan()).toThrow(/give it what ensureParts\(\) answers/);
  });

  test('sizes that no machine has are refused', async () => {
    await expect(Vmm.host(new Edu(), { bytes: 4096 })).rejects.toThrow(/whole MiB/);
    await expect(Vmm.host(new Edu(), { gpa: 5 })).rejects.toThrow(/whole pages/);
    await expect(Vmm.host(new Edu(), { address: 'there' })).rejects.toThrow(SyntaxError);
  });
});
