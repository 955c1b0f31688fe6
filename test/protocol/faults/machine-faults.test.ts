/**
 * Faults on demand in a whole machine, with a client in QEMU's place: what configuration space, the IOMMU
 * and DRAM have to do with them.
 */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import { Edu } from '../../../src/devices/edu/edu.ts';
import { FaultPlan } from '../../../src/faults/index.ts';
import { close, memfdCreate } from '../../../src/ffi/libc.ts';
import { keySlot } from '../../../src/keys/key-slot.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { Machine } from '../../../src/machine/machine.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { ensureParts } from '../../../src/setup/ensure-parts.ts';
import { Trace } from '../../../src/trace/trace.ts';
import { InterruptEvent, VfioUserClient } from '../../../src/vfio-user/client/client.ts';
import { noSealedRam } from '../memory/sealed-bench.ts';

const MIB = 2 ** 20;
const BYTES = 16 * MIB;
const CONFIG = 7;
const COMMAND = 4;
const EDU_ID = 0x0100_00ed;
const EDU_BUFFER = 0x40000;
const ONES = 0xffff_ffff;

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function bench(memory: 'sealed' | 'plain') {
  const trace = new Trace();
  const plan = new FaultPlan({ seed: 1 });
  const machine = await Machine.create({
    ...{ parts: await ensureParts(), memory, bytes: BYTES, log: () => {} },
    instruments: [plan, trace],
  });
  ends.push(() => machine[Symbol.asyncDispose]());
  const edu = new Edu({ dmaMask: (1n << 40n) - 1n });
  const plugged = machine.plug(edu, parseRequesterId('00:04.0'));
  const client = await VfioUserClient.connect(plugged.server.socketPath);
  ends.push(() => client[Symbol.dispose]());
  const ram = memory === 'plain' ? memfdCreate('ram') : openSync(machine.sealed?.path ?? '', 'r+');
  ends.push(() => (memory === 'plain' ? close(ram) : closeSync(ram)));
  if (memory === 'plain') writeSync(ram, new Uint8Array(BYTES));
  await client.mapDma({ gpa: 0, size: BYTES, file: { descriptor: ram, offset: 0 } });
  const enable = () => client.writeRegister(CONFIG, COMMAND, 6, 2);
  await enable();
  const load = (at: number, length: number) => {
    const bytes = Buffer.alloc(length);
    readSync(ram, bytes, 0, length, at);
    return bytes;
  };
  const store = (at: number, bytes: Uint8Array) => void writeSync(ram, bytes, 0, bytes.length, at);
  return { trace, plan, machine, edu, plugged, client, enable, load, store };
}

/** The device reads so many bytes of guest memory into its buffer, or writes them out of it. */
async function transfer(client: VfioUserClient, toRam: boolean, gpa: number, length: number) {
  const registers = Buffer.alloc(24);
  registers.writeBigUInt64LE(BigInt(toRam ? EDU_BUFFER : gpa), 0);
  registers.writeBigUInt64LE(BigInt(toRam ? gpa : EDU_BUFFER), 8);
  registers.writeBigUInt64LE(BigInt(length), 16);
  for (const at of [0, 8, 16])
    await client.regionWrite(0, 0x80 + at, registers.subarray(at, at + 8));
  await client.writeRegister(0, 0x98, toRam ? 3 : 1);
  for (let tries = 0; ((await client.readRegister(0, 0x98)) & 1) !== 0; tries++) {
    if (tries > 1000) throw new Error('expected the transfer to end, got a busy device');
  }
}

describe('a function that is removed', () => {
  test('reads all ones in configuration space too, and begins anew when it is back', async () => {
    const { plan, trace, plugged, client, enable } = await bench('plain');
    const gone = plan.arm('register.all-ones', { nth: 1 });
    expect(await client.readRegister(CONFIG, 0)).toBe(0x11e8_1234);
    expect(await client.readRegister(0, 0)).toBe(ONES);
    expect(await client.readRegister(CONFIG, 0)).toBe(ONES);
    await enable();
    expect(await client.readRegister(CONFIG, COMMAND, 2)).toBe(0xffff);
    expect(plugged.port.busMaster).toBe(false);
    await client.reset();
    expect(await client.readRegister(CONFIG, COMMAND, 2)).toBe(0xffff);
    gone.disarm();
    expect(await client.readRegister(CONFIG, 0)).toBe(0x11e8_1234);
    expect(await client.readRegister(CONFIG, COMMAND, 2)).toBe(0);
    expect(await client.readRegister(0, 0)).toBe(EDU_ID);
    const kinds = trace.events.map(({ kind }) => kind);
    expect(kinds).toContain('injected');
    expect(trace.events).toContainEqual(
      expect.objectContaining({ kind: 'register', direction: 'read', value: '0xffffffff' }),
    );
  });

  test('raises no interrupt', async () => {
    const { plan, client } = await bench('plain');
    using event = new InterruptEvent();
    await client.wireInterrupts('msi', 0, [event.descriptor]);
    const raise = async () => {
      await client.writeRegister(0, 0x60, 1);
      return await client.readRegister(0, 0x24);
    };
    expect([await raise(), event.count]).toEqual([1, 1]);
    const gone = plan.arm('register.all-ones', { nth: 1 });
    expect([await raise(), event.count]).toEqual([ONES, 1]);
    gone.disarm();
    expect([await raise(), event.count]).toEqual([1, 2]);
  });
});

test('a reset in the middle of a DMA takes configuration space along', async () => {
  const { plan, plugged, edu, client, load, enable } = await bench('plain');
  edu.buffer.fill(7);
  plan.arm('reset.during', { nth: 1 });
  await transfer(client, true, 0x1000, 64);
  expect(load(0x1000, 64)).toEqual(Buffer.concat([Buffer.alloc(32, 7), Buffer.alloc(32)]));
  expect(await client.readRegister(CONFIG, COMMAND, 2)).toBe(0);
  expect(plugged.port.busMaster).toBe(false);
  await enable();
  edu.buffer.fill(8);
  await transfer(client, true, 0x1000, 64);
  expect(load(0x1000, 64)).toEqual(Buffer.alloc(64, 8));
});

test('a bit that flips in plain memory is that bit', async () => {
  const { plan, edu, client, store, load } = await bench('plain');
  store(0x2000, Buffer.alloc(64, 0x55));
  plan.arm('dram.flip', { nth: 1, gpa: 0x2005, bit: 1 });
  await transfer(client, false, 0x2000, 64);
  const wanted = Buffer.alloc(64, 0x55);
  wanted[5] = 0x57;
  expect(Buffer.from(edu.buffer.subarray(0, 64))).toEqual(wanted);
  expect(load(0x2000, 64)).toEqual(wanted);
});

describe.skipIf(noSealedRam() !== undefined)('in sealed memory', () => {
  const page = 5 * MIB;
  const stored = Buffer.alloc(4096, 'what the CPU has stored ');
  /** Bytes that differ, as the 16-byte blocks that they are in. */
  const blocksThatDiffer = (a: Uint8Array, b: Uint8Array) => [
    ...new Set([...a.keys()].filter((n) => a[n] !== b[n]).map((n) => Math.floor(n / 16))),
  ];

  test('a bit that flips in DRAM is one bit of ciphertext and 16 bytes of noise', async () => {
    const { plan, machine, edu, client, store, load } = await bench('sealed');
    store(page, stored);
    await transfer(client, false, page, 4096);
    expect(Buffer.from(edu.buffer)).toEqual(stored);
    const dram = () => Buffer.from(machine.sealed?.dram().subarray(page, page + 4096) ?? []);
    const before = dram();

    plan.arm('dram.flip', { nth: 1, gpa: page + 1000, bit: 3 });
    await transfer(client, false, page, 4096);
    const after = dram();
    expect(before[1000]).toBe((after[1000] ?? 0) ^ 8);
    expect([...before.keys()].filter((n) => before[n] !== after[n])).toEqual([1000]);
    expect(blocksThatDiffer(edu.buffer, stored)).toEqual([62]);

    // The CPU has the page in its cache: it finds what it stored, until the page is dropped there.
    expect(load(page, 4096)).toEqual(stored);
    await transfer(client, true, page, 16);
    expect(blocksThatDiffer(load(page, 4096).subarray(16), stored.subarray(16))).toEqual([61]);
    expect((await machine.sealed?.counters())?.flips).toBe(1);
  });

  test('what the CPU has stored and not written back is in DRAM before the bit flips', async () => {
    const { plan, edu, client, store } = await bench('sealed');
    store(page, stored);
    plan.flipBit(page + 33, 0);
    await transfer(client, false, page, 4096);
    expect(blocksThatDiffer(edu.buffer, stored)).toEqual([2]);
  });

  test('a page that nobody has written is zeros but for the noise', async () => {
    const { plan, edu, client } = await bench('sealed');
    plan.flipBit(9 * MIB + 4095, 7);
    await transfer(client, false, 9 * MIB, 4096);
    expect(blocksThatDiffer(edu.buffer, Buffer.alloc(4096))).toEqual([255]);
  });

  test('a DMA under another VM’s slot, or a revoked one, is refused, and moves nothing', async () => {
    const { plan, machine, edu, client, store, load } = await bench('sealed');
    await machine.addSlot(keySlot(2), vmId(2));
    await machine.addSlot(keySlot(3), machine.vm);
    const revoked = await machine.controller?.keys.revoke(keySlot(3));
    if (revoked !== undefined) machine.slots.enter(revoked);
    store(page, stored);
    edu.buffer.fill(0xa5);
    for (const [slot, toRam] of [
      [2, false],
      [3, true],
    ] as const) {
      plan.arm('dma.slot', { nth: 1, slot });
      await transfer(client, toRam, page, 4096);
    }
    expect(edu.buffer.every((byte) => byte === 0xa5)).toBe(true);
    expect(load(page, 4096)).toEqual(stored);
    expect(machine.iommu.faults.records.map(({ reason }) => reason)).toEqual([
      'slot-of-another-vm',
      'slot-not-active',
    ]);
    await transfer(client, false, page, 4096);
    expect(Buffer.from(edu.buffer)).toEqual(stored);
  });

  test('a DMA under another slot of the same VM reads noise', async () => {
    const { plan, machine, edu, client, store } = await bench('sealed');
    await machine.addSlot(keySlot(3), machine.vm);
    store(page, stored);
    plan.arm('dma.slot', { nth: 1, slot: 3 });
    await transfer(client, false, page, 4096);
    expect(blocksThatDiffer(edu.buffer, stored)).toHaveLength(256);
    expect(machine.iommu.faults.total).toBe(0);
  });
});
