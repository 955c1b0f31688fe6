import { afterEach, describe, expect, test } from 'vitest';
import { type HostedVmm, Vmm } from '../../../src/client/index.ts';
import { Edu } from '../../../src/devices/edu/edu.ts';
import { keySlot } from '../../../src/keys/key-slot.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { DmaAbort } from '../../../src/pci/dma-port.ts';
import { noSealedRam } from '../memory/sealed-bench.ts';

const MIB = 2 ** 20;
const missing = noSealedRam();

let vmm: HostedVmm<Edu> | undefined;
afterEach(async () => {
  await vmm?.[Symbol.asyncDispose]();
  vmm = undefined;
});

async function host(memory: 'sealed' | 'plain'): Promise<HostedVmm<Edu>> {
  vmm = await Vmm.host(new Edu(), { memory, bytes: 16 * MIB, log: () => {} });
  return vmm;
}

describe.each(['sealed', 'plain'] as const)(
  'the key slots of a machine, in %s memory',
  (memory) => {
    const skip = memory === 'sealed' && missing !== undefined;

    test.skipIf(skip)(
      'a device is refused from the moment of a revocation on, and the record says under which key',
      async () => {
        const { machine, plugged, memory: guest, faults } = await host(memory);
        const { keys, slot, vm } = machine;
        const buffer = guest.allocate(Buffer.from('what the guest has'));
        const read = () => {
          const into = Buffer.alloc(buffer.length, 0x5c);
          plugged.port.readInto(buffer.gpa, into);
          return into;
        };
        expect(`${read()}`).toBe('what the guest has');
        await keys.rotate(slot);
        expect(`${read()}`).toBe('what the guest has');
        expect(await keys.rotated(slot)).toMatchObject({ state: 'done', generation: 2 });
        expect(`${read()}`).toBe('what the guest has');
        expect(faults.total).toBe(0);

        const revoked = keys.revoke(slot);
        // The controller has not heard of it yet.
        expect(read).toThrow(DmaAbort);
        await revoked;
        expect(() => plugged.port.writeFrom(buffer.gpa, Uint8Array.of(1))).toThrow(DmaAbort);
        await keys.destroy(slot);
        expect(read).toThrow(DmaAbort);
        const named = { rid: plugged.rid, vm, slot, generation: 2 };
        expect(faults.records).toMatchObject([
          { ...named, direction: 'read', reason: 'slot-not-active' },
          { ...named, direction: 'write', reason: 'slot-not-active' },
          { ...named, direction: 'read', reason: 'slot-empty' },
        ]);

        await keys.generate(slot, { vm: vmId(2) });
        await keys.activate(slot);
        expect(read).toThrow(DmaAbort);
        expect(faults.records.at(-1)).toMatchObject({
          reason: 'slot-of-another-vm',
          generation: 3,
        });
      },
    );

    test.skipIf(skip)(
      'a VMM that disconnects in the middle of a rotation, and one that comes, are nothing to it',
      async () => {
        const { machine, memory: guest, plugged } = await host(memory);
        const { keys, slot } = machine;
        const buffer = guest.allocate(new Uint8Array(8 * MIB).fill(0x33));
        await machine.sealed?.flush();
        await keys.rotate(slot);
        await vmm?.disconnect();
        expect(await keys.rotated(slot)).toMatchObject({ state: 'done' });
        await vmm?.reconnect();
        const into = new Uint8Array(buffer.length);
        plugged.port.readInto(buffer.gpa, into);
        expect(into.every((byte) => byte === 0x33)).toBe(true);
      },
    );

    test.skipIf(skip)('more slots are added, each with a key of its own', async () => {
      const { machine } = await host(memory);
      await machine.addSlot(keySlot(7), vmId(2), 128);
      expect(machine.keys.list()).toEqual([
        ...[{ slot: 1, state: 'active', vm: 1, generation: 1, keyBits: 256 }],
        ...[{ slot: 7, state: 'active', vm: 2, generation: 1, keyBits: 128 }],
      ]);
    });
  },
);
