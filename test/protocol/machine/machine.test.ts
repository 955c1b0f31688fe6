import { closeSync, openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import { Edu } from '../../../src/devices/edu/edu.ts';
import { close, memfdCreate } from '../../../src/ffi/libc.ts';
import { keySlot } from '../../../src/keys/key-slot.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { Machine } from '../../../src/machine/machine.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { ensureParts } from '../../../src/setup/ensure-parts.ts';
import { VfioUserClient } from '../../../src/vfio-user/client/client.ts';
import { noSealedRam } from '../memory/sealed-bench.ts';

const MIB = 2 ** 20;
const BYTES = 64 * MIB;
const CONFIG_REGION = 7;
const EDU_BUFFER = 0x40000;
const missing = noSealedRam();

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

/** A client in QEMU's place, whose RAM is the machine's file, lent to the device at `gpa`. */
async function bench(gpa = 0) {
  const machine = await Machine.create({
    parts: await ensureParts(),
    memory: 'sealed',
    bytes: BYTES,
    log: () => {},
  });
  ends.push(() => machine[Symbol.asyncDispose]());
  const edu = new Edu({ dmaMask: (1n << 40n) - 1n });
  const plugged = machine.plug(edu, parseRequesterId('00:04.0'));
  const client = await VfioUserClient.connect(plugged.server.socketPath);
  ends.push(() => client[Symbol.dispose]());
  const ram = openSync(machine.sealed?.path ?? '', 'r+');
  ends.push(() => closeSync(ram));
  await client.mapDma({ gpa, size: BYTES, file: { descriptor: ram, offset: 0 } });
  await client.writeRegister(CONFIG_REGION, 4, 6, 2); // memory space and bus master
  return { machine, edu, plugged, client, ram };
}

async function transfer(client: VfioUserClient, toRam: boolean, gpa: number, length: number) {
  const address = (value: number) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt(value));
    return bytes;
  };
  await client.regionWrite(0, 0x80, address(toRam ? EDU_BUFFER : gpa));
  await client.regionWrite(0, 0x88, address(toRam ? gpa : EDU_BUFFER));
  await client.regionWrite(0, 0x90, address(length));
  await client.writeRegister(0, 0x98, toRam ? 3 : 1);
  for (let tries = 0; ((await client.readRegister(0, 0x98)) & 1) !== 0; tries++) {
    if (tries > 1000) throw new Error('expected the transfer to end, got a busy device');
  }
}

describe.skipIf(missing !== undefined)(
  'a function in sealed memory, driven over its socket',
  () => {
    test('it reads what the CPU stored and the CPU loads what it wrote, through DRAM', async () => {
      const { machine, edu, client, ram } = await bench();
      const sent = Buffer.from('what the CPU has stored, not yet written back to DRAM');
      writeSync(ram, sent, 0, sent.length, 5 * MIB + 77);
      await transfer(client, false, 5 * MIB + 77, sent.length);
      expect(Buffer.from(edu.buffer.subarray(0, sent.length))).toEqual(sent);

      await transfer(client, true, 9 * MIB + 4000, sent.length);
      const loaded = Buffer.alloc(sent.length);
      readSync(ram, loaded, 0, loaded.length, 9 * MIB + 4000);
      expect(loaded).toEqual(sent);
      expect(Buffer.from(machine.sealed?.dram() ?? []).includes(sent.subarray(0, 16))).toBe(false);
      expect(machine.iommu.faults.total).toBe(0);
    });

    test('guest-physical addresses follow the mapping, and end with it', async () => {
      const base = 2 ** 32;
      const { machine, edu, client, ram } = await bench(base);
      writeSync(ram, Buffer.from([1, 2, 3]), 0, 3, 100);
      await transfer(client, false, base + 100, 3);
      expect([...edu.buffer.subarray(0, 3)]).toEqual([1, 2, 3]);
      await client.unmapDma(base, BYTES);
      await transfer(client, false, base + 100, 3);
      expect(machine.iommu.faults.records).toMatchObject([
        { direction: 'read', iova: base + 100, length: 3, reason: 'outside-memory' },
      ]);
    });

    test('memory that is not the VM’s RAM file is not guest RAM', async () => {
      const { machine, client } = await bench();
      const other = memfdCreate('not-ram');
      ends.push(() => close(other));
      writeSync(other, Buffer.alloc(4096, 7));
      await client.mapDma({ gpa: 2 ** 33, size: 4096, file: { descriptor: other, offset: 0 } });
      await transfer(client, false, 2 ** 33, 16);
      expect(machine.iommu.faults.records).toMatchObject([{ reason: 'outside-memory' }]);
    });

    test('nothing in the process can read guest RAM past the IOMMU', async () => {
      const { machine } = await bench();
      const path = machine.sealed?.path ?? '';
      const mappings = readFileSync('/proc/self/maps', 'utf8')
        .split('\n')
        .filter((line) => line.endsWith(` ${path}`));
      expect(mappings).not.toEqual([]);
      for (const line of mappings) expect(line.split(' ')[1]).toBe('---s');
    });

    test('a client that is gone takes its memory and the bus mastering with it', async () => {
      const { plugged, client } = await bench();
      expect(plugged.port.busMaster).toBe(true);
      client[Symbol.dispose]();
      await until(() => plugged.memory.regions.all.length === 0);
      expect(plugged.port.busMaster).toBe(false);
      const again = await VfioUserClient.connect(plugged.server.socketPath);
      ends.push(() => again[Symbol.dispose]());
      expect(await again.readRegister(0, 0)).toBe(0x010000ed);
    });

    test('what the device table says holds for the very next DMA', async () => {
      const { machine, edu, plugged, client, ram } = await bench();
      const { table } = machine.iommu;
      const entry = table.get(plugged.rid);
      if (entry === undefined) throw new Error('expected an entry');
      await machine.addSlot(keySlot(2), vmId(2));
      writeSync(ram, Buffer.alloc(64, 0x33), 0, 64, 4096);
      edu.buffer.fill(0xa5);
      table.set(plugged.rid, { ...entry, slotFrom: 'device-table', slot: keySlot(2) });
      await transfer(client, false, 4096, 64);
      table.delete(plugged.rid);
      await transfer(client, false, 4096, 64);
      expect(edu.buffer.every((byte) => byte === 0xa5)).toBe(true);
      expect(machine.iommu.faults.records.map(({ reason }) => reason)).toEqual([
        'slot-of-another-vm',
        'no-device-table-entry',
      ]);
      table.set(plugged.rid, entry);
      await transfer(client, false, 4096, 64);
      expect(edu.buffer.subarray(0, 64).every((byte) => byte === 0x33)).toBe(true);
    });

    test('a place is one function’s, and a slot is taken once', async () => {
      const { machine, plugged } = await bench();
      expect(() => machine.plug(new Edu(), plugged.rid)).toThrow(/taken/);
      await expect(machine.addSlot(machine.slot, vmId(2))).rejects.toThrow(/taken/);
    });
  },
);

async function until(holds: () => boolean): Promise<void> {
  for (let tries = 0; !holds(); tries++) {
    if (tries > 500) throw new Error('expected it to become so within 5 s');
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
