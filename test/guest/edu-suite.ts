/**
 * What must hold of an edu, whoever makes it: our driver and these tests pass on QEMU's built-in
 * one, and so say what ours has to do. QEMU's docs/specs/edu is the specification.
 */
import { createHash, randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { VirtualMachine } from '../../src/vm/virtual-machine.ts';

export interface EduUnderTest {
  readonly vm: VirtualMachine;
  /** As sysfs names it: 0000:00:04.0. */
  readonly address: string;
  /** Ends the virtual machine and what was started for it. */
  end(): Promise<void>;
}

export interface EduSuiteOptions {
  /** Bytes of the file that is carried through: QEMU's own edu takes 100 ms for each DMA. */
  readonly fileBytes: number;
  /** Seconds for which CPU and device write to the same pages. */
  readonly hammerSeconds: number;
  /** Whether sysfs can reset it: one with a function-level reset or power management. */
  readonly resettable: boolean;
}

const hammerExtraMs = 60_000;

/** Declares the suite. `boot` gives a guest with one edu, to which no driver is bound yet. */
export function eduDriverSuite(
  name: string,
  boot: () => Promise<EduUnderTest>,
  options: EduSuiteOptions,
): void {
  describe(`the edu driver on ${name}`, () => {
    let edu: EduUnderTest;
    let vm: VirtualMachine;
    let sysfs: string;

    beforeAll(async () => {
      edu = await boot();
      vm = edu.vm;
      sysfs = `/sys/bus/pci/devices/${edu.address}`;
      await vm.insmod('sealbus_edu');
    });
    afterAll(async () => {
      await edu?.end();
    });

    const attribute = async (file: string) => (await vm.check(['cat', `${sysfs}/${file}`])).trim();
    const store = (file: string, value: number | string) =>
      vm.exec(['sh', '-c', `echo "$1" > "$2"`, 'sh', String(value), `${sysfs}/${file}`]);
    const count = async () => Number(/count (\d+)/.exec(await attribute('interrupts'))?.[1]);
    const pcimem = async (...words: (string | number)[]) =>
      (await vm.check(['pcimem', edu.address, '0', ...words.map(String)])).trim().split('\n');
    /** Writes bytes at an offset of the device's buffer, by DMA. */
    const toDevice = (bytes: Uint8Array, at = 0) =>
      vm.check(['sh', '-c', `dd of=/dev/edu0 bs=4096 seek=${at} oflag=seek_bytes conv=notrunc`], {
        stdin: bytes,
      });
    const fromDevice = async (length: number, at = 0) =>
      (
        await vm.exec([
          'sh',
          '-c',
          `dd if=/dev/edu0 bs=${length} count=1 skip=${at} iflag=skip_bytes 2>/dev/null`,
        ])
      ).stdout;

    it('binds to vendor 1234, device 11e8, and reads its identification', async () => {
      expect(await attribute('vendor')).toBe('0x1234');
      expect(await attribute('device')).toBe('0x11e8');
      expect(await vm.check(['readlink', `${sysfs}/driver`])).toMatch(/sealbus_edu\n$/);
      // 0xRRrr00ed: major and minor version 1.0.
      expect(await attribute('identification')).toBe('0x010000ed');
    });

    it('answers its liveness check with the complement', async () => {
      for (const value of [0, 1, 0x12345678, 0xffffffff]) {
        expect((await store('liveness', value)).exitCode).toBe(0);
        const complement = (~value >>> 0).toString(16).padStart(8, '0');
        expect(await attribute('liveness')).toBe(`0x${complement}`);
      }
    });

    it('computes factorials, modulo 2^32, and interrupts when it has', async () => {
      for (const [n, product] of [
        [0, 1],
        [1, 1],
        [5, 120],
        [12, 479001600],
        [13, 1932053504],
      ] as const) {
        const before = await count();
        expect((await store('factorial', n)).exitCode).toBe(0);
        expect(await attribute('factorial')).toBe(String(product));
        expect(await count()).toBe(before + 1);
      }
    });

    it('raises the interrupt that it is told to, and lowers it when acknowledged', async () => {
      for (const value of [1, 0x80000000, 0x101, 0xffffffff]) {
        const before = await count();
        expect((await store('raise', value)).exitCode).toBe(0);
        const interrupts = await attribute('interrupts');
        expect(interrupts).toContain(`seen 0x${value.toString(16)} pending 0x0`);
        expect(await count()).toBe(before + 1);
      }
    });

    it.each([1, 4, 100, 4095, 4096])('carries %i bytes by DMA, there and back', async (length) => {
      const bytes = randomBytes(length);
      await toDevice(bytes);
      expect((await fromDevice(length)).equals(bytes)).toBe(true);
    });

    it('changes only the bytes of its buffer that a DMA names', async () => {
      const all = randomBytes(4096);
      const few = randomBytes(33);
      await toDevice(all);
      await toDevice(few, 1001);
      all.set(few, 1001);
      expect((await fromDevice(4096)).equals(all)).toBe(true);
      expect((await fromDevice(77, 990)).equals(all.subarray(990, 1067))).toBe(true);
    });

    it('carries a file through, in steps', async () => {
      const bytes = randomBytes(options.fileBytes);
      await vm.writeFile('/tmp/sent', bytes);
      const said = await vm.check(['edu-copy', '/dev/edu0', '/tmp/sent', '/tmp/came']);
      const steps = Math.ceil(bytes.length / 4096);
      expect(said.trim()).toBe(
        `to-device ${bytes.length} from-device ${bytes.length} steps ${steps}`,
      );
      const digest = createHash('sha256').update(bytes).digest('hex');
      expect(await vm.check(['sha256sum', '/tmp/came'])).toContain(digest);
    });

    it('loses nothing where CPU and device write to the same pages', async () => {
      const seconds = options.hammerSeconds;
      const seed = randomBytes(4).readUInt32LE();
      const said = await vm.check(['edu-hammer', '/dev/edu0', String(seconds), String(seed)], {
        timeoutMs: seconds * 1000 + hammerExtraMs,
      });
      expect(said, `seed ${seed}`).toMatch(/transfers [1-9].* cpu-rounds [1-9].* lost 0\n$/);
    });

    it('leaves registers that are not there at all ones or zero, and its others as they are', async () => {
      await pcimem('0x04', 4, 0x0f0f0f0f);
      await pcimem('0x50', 4, 0xdeadbeef, ',', '0xa8', 8, 1);
      expect(await pcimem('0x04', 4, ',', '0x00', 4)).toEqual(['0xf0f0f0f0', '0x010000ed']);
      const [unknown] = await pcimem('0x50', 4);
      expect(['0x00000000', '0xffffffff']).toContain(unknown);
    });

    it('can be opened by one at a time', async () => {
      const { exitCode, stderr } = await vm.exec([
        'sh',
        '-c',
        'exec 3</dev/edu0; : 4</dev/edu0 4<&-',
      ]);
      expect(exitCode).not.toBe(0);
      expect(`${stderr}`).toMatch(/busy/i);
    });

    it('refuses what lies outside its buffer', async () => {
      const { exitCode, stderr } = await vm.exec([
        'sh',
        '-c',
        'dd if=/dev/zero of=/dev/edu0 bs=1 count=1 seek=4096 conv=notrunc',
      ]);
      expect(exitCode).not.toBe(0);
      expect(`${stderr}`).toMatch(/No space left|Invalid argument/);
      expect(await fromDevice(16, 4096)).toHaveLength(0);
    });

    it('unbinds while it is open, and binds again', async () => {
      const driver = '/sys/bus/pci/drivers/sealbus_edu';
      const { exitCode, stderr } = await vm.exec([
        'sh',
        '-c',
        `exec 3</dev/edu0; echo ${edu.address} > ${driver}/unbind; cat <&3`,
      ]);
      expect(exitCode).not.toBe(0);
      expect(`${stderr}`).toMatch(/No such device/);
      expect((await vm.exec(['ls', '/dev/edu0'])).exitCode).not.toBe(0);
      await vm.check(['sh', '-c', `echo ${edu.address} > ${driver}/bind`]);
      const bytes = randomBytes(64);
      await toDevice(bytes);
      expect((await fromDevice(64)).equals(bytes)).toBe(true);
    });

    if (options.resettable) {
      it('works on after a reset through sysfs', async () => {
        await store('liveness', 0x1234);
        await vm.check(['sh', '-c', `echo 1 > ${sysfs}/reset`]);
        expect((await store('factorial', 6)).exitCode).toBe(0);
        expect(await attribute('factorial')).toBe('720');
        const bytes = randomBytes(512);
        await toDevice(bytes);
        expect((await fromDevice(512)).equals(bytes)).toBe(true);
      });
    }

    it('unloads and loads, and the kernel never complained', async () => {
      await vm.check(['rmmod', 'sealbus_edu']);
      await vm.insmod('sealbus_edu');
      expect(await attribute('identification')).toBe('0x010000ed');
      expect(vm.console.complaints()).toEqual([]);
      const log = await vm.check(['dmesg']);
      expect(log).not.toMatch(/WARNING: |BUG: |Oops|DMA-API/);
    });
  });
}
