/** The matchers on a device that a client drives: what they find, and what they say where they do not. */
import { setTimeout as sleep } from 'node:timers/promises';
import { bit, DmaAbort, memoryBar, PciFunction, reg32, reg64, ro32 } from 'sealbus/pci';
import { describe, expect, test } from 'sealbus/vitest';

/** Copies a buffer, and raises vector 1. */
class Copier extends PciFunction {
  static override readonly id = { vendor: 0x1b36, device: 0x5eb3, class: 0xff0000 };
  static override readonly interrupts = { msix: 2 };

  readonly bar0 = memoryBar(4096, {
    control: reg32(0, { go: bit(0), loud: bit(1) }, { onWrite: (r) => r.go && this.#copy(r.loud) }),
    source: reg64(8),
    target: reg64(16),
    length: reg32(24),
    state: ro32(28, { reset: 7 }),
  });

  #copy(loud: boolean) {
    const { source, target, length } = this.bar0;
    const bytes = new Uint8Array(length);
    try {
      this.dma.readInto(source, bytes);
      this.dma.writeFrom(target, bytes);
    } catch (error) {
      if (!(error instanceof DmaAbort)) throw error;
    }
    if (loud) this.msix.raise(1);
  }
}

const copier = test.use({ device: () => new Copier(), memory: 'plain' });

/** What an assertion says where it fails. */
const saidBy = (assertion: () => void): string => {
  try {
    assertion();
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error('expected the assertion to fail, and it held');
};

copier('DMA by direction, length, addresses and count', async ({ client, device }) => {
  const source = client.memory.allocate(Uint8Array.of(1, 2, 3, 4));
  const target = client.memory.allocate(new Uint8Array(4));
  expect(device).not.toHaveDma();
  expect(saidBy(() => expect(device).toHaveDma())).toBe(
    'expected Copier at 00:04.0 to have made a DMA, got 0 of 0 DMAs',
  );
  await client.bar0.write('source', source.gpa);
  await client.bar0.write('target', target.gpa);
  await client.bar0.write('length', 4);
  await client.bar0.write('control', { go: true });
  await client.bar0.read('state');

  expect(device).toHaveDma({ times: 2 });
  expect(device).toHaveDma({ direction: 'read', bytes: 4, iova: source.gpa, times: 1 });
  expect(device).toHaveDma({ direction: 'write', gpa: target.gpa + 3, encrypted: false, slot: 1 });
  expect(device).not.toHaveDma({ gpa: target.gpa + 4 });
  expect(device).not.toHaveDma({ bytes: 5 });
  expect(device).not.toHaveDma({ direction: 'write', iova: source.gpa });
  const said = saidBy(() =>
    expect(device).toHaveDma({ direction: 'read', bytes: 12, encrypted: true }),
  );
  expect(said).toContain('made a DMA, a read, of 12 bytes, encrypted');
  expect(said).toContain('memory is plain');
  expect(said).toContain('got 0 of 2 DMAs');
  expect(said).toContain(`read of 4 bytes at 0x${source.gpa.toString(16)}`);
  expect(saidBy(() => expect(device).not.toHaveDma({ bytes: 4 }))).toContain(
    'not to have made a DMA, of 4 bytes, got 2 of 2 DMAs',
  );
  expect(saidBy(() => expect(device).toHaveDma({ times: 3 }))).toContain('3 times, got 2 of 2');
});

copier('registers by name, value and field', async ({ client, device }) => {
  await client.bar0.write('length', 0x1234);
  await client.bar0.write('control', 2);
  expect(device).toHaveWritten('length', 0x1234, { times: 1 });
  expect(device).toHaveWritten('length', 0x1234n);
  expect(device).not.toHaveWritten('length', 0x1235);
  expect(device).not.toHaveRead('length');
  expect(device).toHaveWritten('control', { loud: true, go: false });
  expect(device).not.toHaveWritten('control', { go: true });
  expect(await client.bar0.read('state')).toBe(7);
  expect(device).toHaveRead('state', 7, { times: 1 });
  const said = saidBy(() => expect(device).toHaveWritten('length', 5));
  expect(said).toContain('its register length written, with 0x5, got 0 of 2 writes of registers');
  expect(said).toContain('write length = 0x1234');
  expect(said).toContain('write control = 0x2 (loud 1)');
  expect(() => expect(device).toHaveRead('lenght')).toThrow(
    /expected a register of Copier at 00:04\.0 \(control, .*state\), got lenght/,
  );
});

copier('interrupts by vector, and where they are late', async ({ client, device }) => {
  const buffer = client.memory.allocate(new Uint8Array(8));
  await client.bar0.write('source', buffer.gpa);
  await client.bar0.write('target', buffer.gpa);
  await client.bar0.write('length', 8);
  expect(device).not.toHaveRaised();
  const later = sleep(50).then(() => client.bar0.write('control', 3));
  await expect.poll(() => device).toHaveRaised(1);
  await later;
  expect(device).toHaveRaised(1, { times: 1 });
  expect(device).not.toHaveRaised(0);
  expect(device).not.toHaveRaised('intx');
  expect(saidBy(() => expect(device).toHaveRaised(0))).toContain('got 0 of 1 interrupts');
});

copier('refused DMA by its reason', async ({ client, device }) => {
  await client.bar0.write('source', 0x7000_0000_0000n);
  await client.bar0.write('length', 16);
  await client.bar0.write('control', 1);
  await client.bar0.read('state');
  expect(device).toHaveFault({ reason: 'outside-memory', direction: 'read', bytes: 16, times: 1 });
  expect(device).toHaveFault({ iova: 0x7000_0000_0000 });
  expect(device).not.toHaveFault({ reason: 'unmapped' });
  expect(device).not.toHaveDma();
  expect(saidBy(() => expect(device).not.toHaveFault())).toContain(
    'read of 16 bytes at 0x700000000000: outside-memory',
  );
});

copier('resets by their cause', async ({ client, device }) => {
  expect(device).not.toHaveReset();
  await client.reset();
  expect(device).toHaveReset('device', { times: 1 });
  expect(device).not.toHaveReset('function-level');
});

describe('a fault on demand', () => {
  test('is not what the guest saw', async ({ client, device, faults, trace }) => {
    const buffer = client.memory.allocate(new Uint8Array(8));
    await client.bar0.write('source', buffer.gpa);
    await client.bar0.write('target', buffer.gpa);
    await client.bar0.write('length', 8);
    faults.arm('interrupt.lose', { nth: 1 });
    await client.bar0.write('control', 3);
    await client.bar0.read('state');
    expect(device).not.toHaveRaised();
    expect(trace.events).toContainEqual(
      expect.objectContaining({ kind: 'injected', fault: 'interrupt.lose' }),
    );
  });
});

describe('what is no device of the test', () => {
  test('is refused', ({ device }) => {
    expect(() => expect(new Copier()).toHaveDma()).toThrow(/device of this test/);
    expect(() => expect(undefined).toHaveRaised()).toThrow(/device of this test/);
    expect(() => expect(device).toHaveNoMappingsLeft()).toThrow(/iommu: 'virtio'/);
    expect(() => expect(device).toHaveDma({ times: -1 })).toThrow(/times/);
  });

  test('nor is a guest beside a client', async ({ client, rig }) => {
    expect(client.device).toBe(rig.devices[0]);
    await expect(rig.machine()).rejects.toThrow(/one host/);
  });
});
