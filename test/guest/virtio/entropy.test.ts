/** The example of a virtio device, driven by Linux's own virtio-pci and virtio-rng. */
import { createCipheriv } from 'node:crypto';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Entropy } from '../../../examples/entropy/entropy.ts';
import { Machine } from '../../../src/machine/machine.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { runCommand } from '../../../src/setup/command.ts';
import { ensureParts } from '../../../src/setup/ensure-parts.ts';
import type { VirtualMachine } from '../../../src/vm/virtual-machine.ts';

/** What virtio-rng asks for at once: the size of its buffer, a cache line. */
const REQUEST_BYTES = 64;

/** A stream from a key, and all of it that was taken so far. */
function seededStream() {
  const cipher = createCipheriv('aes-256-ctr', Buffer.alloc(32, 0x5e), Buffer.alloc(16));
  const made: Buffer[] = [];
  const source = (length: number) => {
    const bytes = cipher.update(new Uint8Array(length));
    made.push(bytes);
    return bytes;
  };
  return { source, made };
}

describe.each([
  { memory: 'sealed', kernelArguments: [], interrupts: 'MSI-X' },
  { memory: 'plain', kernelArguments: [], interrupts: 'MSI-X' },
  { memory: 'plain', kernelArguments: ['pci=nomsi'], interrupts: 'INTx' },
] as const)('the entropy device in $memory memory, with $interrupts', (setting) => {
  const { memory, kernelArguments } = setting;
  const { source, made } = seededStream();
  const device = new Entropy(source);
  const pci = '/sys/bus/pci/devices/0000:00:05.0';
  let machine: Machine;
  let vm: VirtualMachine;

  beforeAll(async () => {
    const parts = await ensureParts();
    const packed = join(parts.kernel.modules, 'kernel/drivers/char/hw_random/virtio-rng.ko.xz');
    const { stdout } = await runCommand('sh', ['-c', 'xz -dc "$1" | base64', 'sh', packed], {
      timeout_ms: 30_000,
    });
    const bytes = Buffer.from(stdout, 'base64');
    machine = await Machine.create({ parts, memory, bytes: 512 * 2 ** 20 });
    machine.plug(device, parseRequesterId('00:05.0'));
    const image = { files: { 'lib/modules/virtio-rng.ko': { bytes } } };
    vm = await machine.boot({ image, kernelArguments });
    await vm.insmod('virtio-rng');
  });
  afterAll(async () => {
    await machine?.[Symbol.asyncDispose]();
  });

  const hwrng = async (blocks: number) => {
    const count = `count=${blocks}`;
    const { stdout, exitCode } = await vm.exec([
      ...['dd', 'if=/dev/hwrng', `bs=${REQUEST_BYTES}`, count, 'iflag=fullblock', 'status=none'],
    ]);
    expect(exitCode).toBe(0);
    return stdout;
  };

  /** The kernel takes blocks for itself beside us: those that we get are in order, with gaps. */
  const expectOurs = (bytes: Buffer) => {
    const stream = Buffer.concat(made);
    let from = 0;
    for (let at = 0; at < bytes.length; at += REQUEST_BYTES) {
      const found = stream.indexOf(bytes.subarray(at, at + REQUEST_BYTES), from);
      if (found === -1) expect.fail(`the block at ${at} of ${bytes.length} is not of the device`);
      from = found + REQUEST_BYTES;
    }
  };

  it('is the one that Linux takes for its source', async () => {
    const current = await vm.check(['cat', '/sys/class/misc/hw_random/rng_current']);
    expect(current.trim()).toBe('virtio_rng.0');
  });

  it('agrees with Linux on indirect descriptors, event index, VERSION_1 and the platform', async () => {
    const bits = (await vm.check(['sh', '-c', `cat ${pci}/virtio*/features`])).trim();
    expect([28, 29, 32, 33, 40].map((bit) => bits[bit])).toEqual(['1', '1', '1', '1', '1']);
  });

  it('fills the buffers with its bytes, and interrupts', async () => {
    const bytes = await hwrng(512);
    expect(bytes.length).toBe(512 * REQUEST_BYTES);
    expectOurs(bytes);
    const name = (await vm.check(['sh', '-c', `basename ${pci}/virtio*`])).trim();
    const lines = (await vm.check(['cat', '/proc/interrupts'])).split('\n');
    const line = lines.find(
      (one) => new RegExp(`\\b${name}(-input)?\\b`).test(one) && !/config/.test(one),
    );
    expect(line).toMatch(
      setting.interrupts === 'MSI-X' ? /PCI-MSIX-0000:00:05\.0\s+1-edge/ : /IO-APIC\s+\d+-fasteoi/,
    );
  });

  it('comes back after its driver has gone, and after a function-level reset', async () => {
    await vm.check(['rmmod', 'virtio-rng']);
    await vm.check(['sh', '-c', `echo 1 > ${pci}/reset`]);
    await vm.insmod('virtio-rng');
    expectOurs(await hwrng(16));
  });

  it('had no DMA refused, no failure, and the kernel never complained', async () => {
    expect(machine.iommu.faults.total).toBe(0);
    expect(device.failed).toBeUndefined();
    expect(vm.console.complaints()).toEqual([]);
    const log = await vm.check(['dmesg']);
    expect(log).not.toMatch(/WARNING: |BUG: |Oops|virtio.*(?:[Ff]ail|[Ee]rror)/);
  });
});
