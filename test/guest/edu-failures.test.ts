/**
 * Devices, drivers and guests that misbehave, in one guest with sealed memory: stores and DMA to the
 * same pages for a minute, addresses that no driver should give, resets in the middle of a transfer.
 * Each ends in a recorded fault or in nothing, and everybody goes on.
 */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { BUFFER_START } from '../../src/devices/edu/dma-engine.ts';
import { Edu, type EduOptions } from '../../src/devices/edu/edu.ts';
import { Machine, type PluggedFunction } from '../../src/machine/machine.ts';
import type { ResetCause } from '../../src/pci/endpoint.ts';
import { formatRequesterId, parseRequesterId } from '../../src/pci/requester-id.ts';
import { ensureParts } from '../../src/setup/ensure-parts.ts';
import type { VirtualMachine } from '../../src/vm/virtual-machine.ts';
import { until } from '../protocol/cli/sealbus.ts';

const MIB = 2 ** 20;
const GUEST_BYTES = 512 * MIB;
/** Longer than a guest on a busy host takes from one command to the next. */
const DELAY_MS = 400;
const HAMMER_SECONDS = 60;
const LENGTH = 512;

/** Edu says for its type that it is no Express function: this one differs in just that. */
const EduConstructor: new (options: EduOptions) => Edu = Edu;

/** An edu that gives any address, that takes its time, and that the kernel can reset alone. */
class SlowEdu extends EduConstructor {
  static readonly express = true;
  readonly resets: ResetCause[] = [];
  readonly transfers: string[] = [];

  constructor() {
    super({
      dmaMask: (1n << 64n) - 1n,
      delayNs: DELAY_MS * 1e6,
      onTransfer: ({ toRam }) => this.transfers.push(toRam ? 'to RAM' : 'from RAM'),
    });
  }

  override reset(cause: ResetCause): void {
    this.resets.push(cause);
    super.reset(cause);
  }
}

const fastEdu = new Edu({ dmaMask: (1n << 64n) - 1n });
const slowEdu = new SlowEdu();
let machine: Machine;
let vm: VirtualMachine;
let fast: PluggedFunction;
let slow: PluggedFunction;
const log: string[] = [];

beforeAll(async () => {
  const parts = await ensureParts();
  machine = await Machine.create({
    ...{ parts, memory: 'sealed', bytes: GUEST_BYTES },
    log: (message) => log.push(message),
  });
  fast = machine.plug(fastEdu, parseRequesterId('00:04.0'));
  slow = machine.plug(slowEdu, parseRequesterId('00:05.0'));
  vm = await machine.boot({ cpus: 2 });
  await vm.insmod('sealbus_edu');
});
afterAll(async () => {
  await machine?.[Symbol.asyncDispose]();
});

const address = ({ rid }: PluggedFunction) => formatRequesterId(rid);
const sysfs = (plugged: PluggedFunction) => `/sys/bus/pci/devices/${address(plugged)}`;
const hex = (value: number | bigint) => `0x${value.toString(16)}`;
const pcimem = async (plugged: PluggedFunction, ...words: string[]) =>
  (await vm.check(['pcimem', address(plugged), '0', ...words])).trim().split('\n');

/** Stores to the DMA registers, as a driver would: from or to `gpa`, without an interrupt. */
const program = async (
  plugged: PluggedFunction,
  direction: 'read' | 'write',
  gpa: number | bigint,
) => {
  const [source, destination] = direction === 'read' ? [gpa, BUFFER_START] : [BUFFER_START, gpa];
  const command = direction === 'read' ? 1 : 3;
  await pcimem(
    plugged,
    ...['0x80', '8', hex(source), ',', '0x88', '8', hex(destination)],
    ...[',', '0x90', '8', hex(LENGTH), ',', '0x98', '4', hex(command)],
  );
};
const untilDone = async (plugged: PluggedFunction) => {
  for (let tries = 0; tries < 100; tries++) {
    if ((Number((await pcimem(plugged, '0x98', '4'))[0]) & 1) === 0) return;
  }
  throw new Error('expected the DMA to end, got a device that stays busy');
};

/** The driver carries bytes through the device, there and back. */
const smoke = async (name: 'edu0' | 'edu1') => {
  const bytes = randomBytes(10_000);
  await vm.writeFile('/tmp/sent', bytes);
  await vm.check(['edu-copy', `/dev/${name}`, '/tmp/sent', '/tmp/came'], { timeoutMs: 20_000 });
  expect((await vm.readFile('/tmp/came')).equals(bytes)).toBe(true);
};

const pageAt = ({ port }: PluggedFunction, gpa: number) => {
  const page = Buffer.alloc(4096);
  port.readInto(gpa, page);
  return page;
};

/** A page of the guest's that stays as it is: of a file in its page cache. */
const quietPage = async () => {
  const content = randomBytes(4096);
  await vm.writeFile('/root/quiet', content);
  const places = pagesLike(content);
  // Buffers that the file came through hold the same bytes; only the file's own page changes now.
  content[0] = ~(content[0] ?? 0);
  await vm.check(['sh', '-c', 'exec dd of=/root/quiet bs=1 conv=notrunc'], {
    stdin: content.subarray(0, 1),
  });
  const page = places.find((gpa) => pageAt(slow, gpa).equals(content));
  if (page === undefined) throw new Error(`expected the file's page, got none of ${places}`);
  return page;
};

function pagesLike(content: Buffer): number[] {
  const bytes = Buffer.alloc(MIB);
  const found: number[] = [];
  for (const { gpa, size } of slow.memory.regions.all) {
    for (let at = 0; at < size; at += MIB) {
      const piece = bytes.subarray(0, Math.min(MIB, size - at));
      slow.port.readInto(gpa + at, piece);
      for (let page = 0; page < piece.length; page += 4096) {
        if (piece.subarray(page, page + 4096).equals(content)) found.push(gpa + at + page);
      }
    }
  }
  return found;
}

it(`loses no byte where CPUs and device write to the same pages for ${HAMMER_SECONDS} s`, async () => {
  const { total } = machine.iommu.faults;
  const seed = randomBytes(4).readUInt32LE();
  const before = fastEdu.dmaCounters.transfers;
  const said = await vm.check(['edu-hammer', '/dev/edu0', `${HAMMER_SECONDS}`, `${seed}`], {
    timeoutMs: (HAMMER_SECONDS + 60) * 1000,
  });
  const count = (name: string) => Number(new RegExp(`\\b${name} (\\d+)`).exec(said)?.[1]);
  expect(count('lost'), `seed ${seed}: ${said}`).toBe(0);
  // Both sides were at it all the time, in pages that moved.
  expect(count('cuts')).toBeGreaterThan(HAMMER_SECONDS);
  expect(count('transfers')).toBeGreaterThan(50 * HAMMER_SECONDS);
  expect(count('cpu-rounds')).toBeGreaterThan(10 * HAMMER_SECONDS);
  expect(fastEdu.dmaCounters.transfers - before).toBe(count('transfers'));
  expect(machine.iommu.faults.total).toBe(total);
});

describe('a wild DMA address', () => {
  let quiet: number;
  let bar: number;
  beforeAll(async () => {
    quiet = await quietPage();
    bar = Number((await vm.check(['cat', `${sysfs(fast)}/resource`])).split(' ')[0]);
  });

  const end = () => Math.max(...fast.memory.regions.all.map(({ gpa, size }) => gpa + size));
  const cases = [
    ['just behind RAM', () => end(), 'outside-memory'],
    ['half inside RAM', () => end() - LENGTH / 2, 'outside-memory'],
    ['where interrupts go', () => 0xfee0_0000, 'outside-memory'],
    ['its own BAR', () => bar, 'outside-memory'],
    ['beyond 2^53', () => 1n << 60n, 'unmapped'],
    ['over the end of all addresses', () => (1n << 64n) - 16n, 'unmapped'],
  ] as const;
  /** Where a DMA would end that is cut, or that wraps: memory's first and last pages, and a quiet one. */
  const watched = () => Buffer.concat([0, quiet, end() - 4096].map((gpa) => pageAt(fast, gpa)));

  describe.each(cases)('%s', (_name, wild, reason) => {
    it.each(['read', 'write'] as const)('%s: one fault, and nothing moved', async (direction) => {
      fastEdu.buffer.fill(0xa5);
      const before = watched();
      const { total } = machine.iommu.faults;
      await program(fast, direction, wild());
      await untilDone(fast);
      expect(machine.iommu.faults.since(total)).toMatchObject([
        { rid: fast.rid, direction, length: LENGTH, reason },
      ]);
      expect(BigInt(machine.iommu.faults.since(total)[0]?.iova ?? 0)).toBe(BigInt(wild()));
      expect(fastEdu.buffer.every((byte) => byte === 0xa5)).toBe(true);
      expect(watched().equals(before)).toBe(true);
    });
  });

  it('with the bus master bit off: one fault, and nothing moved', async () => {
    const config = `${sysfs(fast)}/config`;
    const script = 'printf "$1" | dd of="$2" bs=1 seek=4 conv=notrunc';
    const setCommand = (value: number) =>
      vm.check(['sh', '-c', script, 'sh', `\\${value.toString(8).padStart(3, '0')}`, config]);
    const command = (await vm.readFile(config))[4] ?? 0;
    const { total } = machine.iommu.faults;
    const before = pageAt(fast, quiet);
    try {
      await setCommand(command & ~4);
      fastEdu.buffer.fill(0xa5);
      await program(fast, 'write', quiet);
      await untilDone(fast);
    } finally {
      await setCommand(command);
    }
    expect(machine.iommu.faults.since(total)).toMatchObject([
      { rid: fast.rid, direction: 'write', iova: quiet, reason: 'bus-master-disabled' },
    ]);
    expect(pageAt(fast, quiet).equals(before)).toBe(true);
  });

  it('leaves driver, device and guest as they were', async () => {
    await smoke('edu0');
    await smoke('edu1');
    expect(vm.console.complaints()).toEqual([]);
  });
});

/** A line of shell that programs a transfer: what follows it in the same process finds it under way. */
const programming = (
  plugged: PluggedFunction,
  direction: 'read' | 'write',
  gpa: number,
  interrupt = false,
) => {
  const [source, destination] = direction === 'read' ? [gpa, BUFFER_START] : [BUFFER_START, gpa];
  const stores = `0x80 8 ${source} , 0x88 8 ${destination} , 0x90 8 ${LENGTH}`;
  const command = (direction === 'read' ? 1 : 3) + (interrupt ? 4 : 0);
  return `pcimem ${address(plugged)} 0 ${stores} , 0x98 4 ${command}`;
};

describe('a reset in the middle of a transfer', () => {
  let quiet: number;
  let total: number;
  let before: Buffer;
  const interrupts = async () =>
    Number(/count (\d+)/.exec(await vm.check(['cat', `${sysfs(slow)}/interrupts`]))?.[1]);
  beforeAll(async () => {
    quiet = await quietPage();
  });
  beforeEach(() => {
    total = machine.iommu.faults.total;
    before = pageAt(slow, quiet);
    slowEdu.resets.length = 0;
    slowEdu.transfers.length = 0;
  });

  /** The delay is long for one process. */
  const resetInside = async (direction: 'read' | 'write', reset: string) => {
    await vm.check(['sh', '-c', `${programming(slow, direction, quiet, true)} && ${reset}`]);
  };

  it.each(['read', 'write'] as const)(
    'by sysfs: the %s has no effect after it',
    async (direction) => {
      slowEdu.buffer.fill(0x5a);
      const count = await interrupts();
      await resetInside(direction, `echo 1 > ${sysfs(slow)}/reset`);
      expect(slowEdu.resets).toContain('function-level');
      expect(slowEdu.transfers, 'it came to its end before the reset: nothing is shown').toEqual(
        [],
      );
      await sleep(3 * DELAY_MS);

      expect(slowEdu.transfers).toEqual([]);
      expect(slowEdu.buffer.every((byte) => byte === 0)).toBe(true);
      expect(pageAt(slow, quiet).equals(before)).toBe(true);
      expect(await interrupts()).toBe(count);
      expect(Number((await pcimem(slow, '0x98', '4'))[0]) & 1).toBe(0);
      expect(machine.iommu.faults.total).toBe(total);
      await smoke('edu1');
    },
  );

  it('after which everybody goes on', async () => {
    await smoke('edu0');
    expect(vm.console.complaints()).toEqual([]);
  });
});

describe('the same transfer without a reset', () => {
  it('does reach memory, so that the above shows something', async () => {
    const quiet = await quietPage();
    slowEdu.buffer.fill(0x5a);
    await program(slow, 'write', quiet);
    await untilDone(slow);
    expect(
      pageAt(slow, quiet)
        .subarray(0, LENGTH)
        .every((byte) => byte === 0x5a),
    ).toBe(true);
  });
});

describe('a guest that reboots in the middle of a transfer', () => {
  it('resets the functions, stays connected, and finds them as new', async () => {
    const quiet = await quietPage();
    slowEdu.resets.length = 0;
    slowEdu.transfers.length = 0;
    const script = `${programming(slow, 'write', quiet)} && reboot -f`;
    const back = vm.reboot({ command: ['sh', '-c', script] });
    back.catch(() => {}); // awaited below
    await until(() => slowEdu.resets.length > 0, 10_000, 'a reset of the function');
    await sleep(3 * DELAY_MS);
    expect(slowEdu.resets).not.toContain('connection-lost');
    expect(slowEdu.transfers).toEqual([]);
    expect([fast.server.connected, slow.server.connected]).toEqual([true, true]);
    await back;
    expect(await vm.check(['cat', '/proc/uptime'])).toMatch(/^\d\./);
    await vm.insmod('sealbus_edu');
    await smoke('edu0');
    await smoke('edu1');
  });
});

it('of all that nothing but faults was logged by the devices', () => {
  expect(log).toEqual([]);
});
