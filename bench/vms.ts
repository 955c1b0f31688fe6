/**
 * What many VMs cost each other in one process: the IOMMU's look-up with 4,096 requester IDs bound, each to a
 * VM and a key slot of its own, beside that with one; and DMA that eight VMs' clients drive at once, in sealed
 * memory, beside that of one of them. `node bench/main.ts --only vms`.
 */
import { Vmm } from '../src/client/vmm.ts';
import { IdentityDomain } from '../src/iommu/domain.ts';
import { Iommu } from '../src/iommu/iommu.ts';
import { KEY_SLOTS, keySlot } from '../src/keys/key-slot.ts';
import { vmId } from '../src/keys/vm-id.ts';
import { Machine } from '../src/machine/machine.ts';
import { Platform } from '../src/machine/platform.ts';
import { SlotRegister } from '../src/machine/slot-register.ts';
import type { GuestMemory } from '../src/memory/guest-memory.ts';
import type { DmaPort } from '../src/pci/dma-port.ts';
import { memoryBar, PciFunction, reg32, reg64 } from '../src/pci/index.ts';
import { parseRequesterId, requesterId } from '../src/pci/requester-id.ts';
import type { BenchContext } from './bench-context.ts';
import { type Comparison, compare, interleaved, median, rounded } from './figures.ts';
import { allowedCores, coresOf, pin } from './placement.ts';

const ROUNDS = 101;
const LOOK_UPS_A_ROUND = 16_384;
const WARM_UP_MS = 150;
const VMS = 8;
const VM_BYTES = 64 * 2 ** 20;
const GPA = 0x10_0000;
const DMA_BYTES = 65_536;
/**
 * Each client goes round so many buffers: 32 MiB, more than a core's own cache and its TLB hold, whether they are
 * one VM's or eight's, so that neither finds there what it read last time.
 */
const BUFFERS = 512;
const DMA_ROUNDS = 15;
const DMA_ROUND_MS = 400;

/** One access of 4 KiB through a memory whose read does nothing. */
export interface LookUps extends Comparison {
  readonly one_ns: number;
  readonly many_ns: number;
  /** Every bound function in turn, one access each: its port and its entry come from memory, not from the cache. */
  readonly inTurn_ns: number;
}

export interface Throughput extends Comparison {
  /** MiB/s of one VM alone, with the others at rest. */
  readonly alone: number;
  /** MiB/s of all together. */
  readonly together: number;
  /** MiB/s of the slowest of them. */
  readonly slowest: number;
}

/** The ratio on top is that of the look-up. */
export interface VmsResult extends Comparison {
  readonly lookUp: LookUps;
  /** The ratio is the slowest VM's to an eighth of one alone. */
  readonly throughput: Throughput;
}

/** @throws FuseUnavailable; Error */
export async function benchVms({ parts, say, signal }: BenchContext): Promise<VmsResult> {
  say(`the IOMMU's look-up with 1 and ${KEY_SLOTS} requester IDs`);
  const lookUp = await measureLookUps();
  signal.throwIfAborted();
  say(`DMA of ${DMA_BYTES / 1024} KiB by 1 and ${VMS} VMs' clients`);
  const throughput = await measureThroughput(parts, signal);
  const { ratio, peer, bar, met, rounds } = lookUp;
  return { ratio, peer, bar, met, rounds, lookUp, throughput };
}

const nothing: GuestMemory = {
  mode: 'plain',
  permits: () => true,
  crosses: () => false,
  read: () => {},
  write: () => {},
  readBatch: () => {},
  writeBatch: () => {},
};

/** As many functions, each of a VM of its own under a slot of its own. */
function functionsBound(count: number): readonly DmaPort[] {
  const slots = new SlotRegister();
  const iommu = new Iommu(slots);
  return Array.from({ length: count }, (_, index) => {
    const slot = keySlot(index);
    const vm = vmId(index + 1);
    slots.enter({ slot, state: 'active', vm, generation: 1, keyBits: 256 });
    const rid = requesterId({ segment: index, bus: 0, device: 4, function: 0 });
    const domain = new IdentityDomain(iommu.newDomainId());
    iommu.table.set(rid, { domain, vm, slot, rights: 'read-write' });
    const port = iommu.port(rid, nothing);
    port.busMaster = true;
    return port;
  });
}

async function measureLookUps(): Promise<LookUps> {
  const [one] = functionsBound(1);
  const many = functionsBound(KEY_SLOTS);
  const middle = many[KEY_SLOTS / 2];
  if (one === undefined || middle === undefined) throw new Error('expected functions to be bound');
  const into = new Uint8Array(4096);
  const timed = (ports: readonly DmaPort[]) => () => {
    const begin = process.hrtime.bigint();
    for (let i = 0; i < LOOK_UPS_A_ROUND; i++) ports[i % ports.length]?.readInto(GPA, into);
    return Number(process.hrtime.bigint() - begin) / LOOK_UPS_A_ROUND;
  };
  const loops = { one: timed([one]), many: timed([middle]), inTurn: timed(many) };
  for (const end = performance.now() + WARM_UP_MS; performance.now() < end; ) {
    for (const loop of Object.values(loops)) loop();
  }
  const runs = await interleaved(ROUNDS, loops);
  const [one_ns, many_ns] = [median(runs.one), median(runs.many)];
  return {
    ...compare(many_ns, one_ns, {
      ...{ peer: 'the same access with one requester ID bound', bar: { atMost: 1.2 } },
      rounds: ROUNDS,
    }),
    ...{ one_ns: rounded(one_ns), many_ns: rounded(many_ns) },
    inTurn_ns: rounded(median(runs.inTurn)),
  };
}

/** Reads a buffer when it is told to, and says when it has. */
class Reader extends PciFunction {
  static override readonly id = { vendor: 0x1b36, device: 0x5eb2, class: 0xff0000 };
  static override readonly interrupts = { msix: 1 };
  readonly #bytes = new Uint8Array(DMA_BYTES);

  readonly bar0 = memoryBar(4096, {
    source: reg64(0x00),
    go: reg32(0x08, { onWrite: () => this.#run() }),
  });

  #run(): void {
    this.dma.readInto(this.bar0.source, this.#bytes);
    this.msix.raise(0);
  }
}

async function measureThroughput(
  parts: BenchContext['parts'],
  signal: AbortSignal,
): Promise<Throughput> {
  await using stack = new AsyncDisposableStack();
  const platform = stack.use(await Platform.create({ memory: 'sealed' }));
  const allowed = allowedCores();
  const [core] = coresOf(allowed);
  pin(process.pid, String(core));
  stack.defer(() => pin(process.pid, allowed));
  pin(platform.controller?.pid ?? 0, String(core));
  const clients: (() => Promise<void>)[] = [];
  for (let vm = 0; vm < VMS; vm++) {
    const memory = { memory: 'sealed', bytes: VM_BYTES } as const;
    const machine = stack.use(await Machine.create({ platform, parts, ...memory }));
    const { server } = machine.plug(new Reader(), parseRequesterId('00:04.0'));
    const file = machine.sealed?.path ?? '';
    const options = { gpa: GPA, bytes: VM_BYTES, file };
    const vmm = stack.use(await Vmm.connect(server.socketPath, options));
    const buffers = vmm.memory.allocate(new Uint8Array(BUFFERS * DMA_BYTES).fill(vm + 1));
    const bar0 = vmm.bar(0);
    const interrupt = vmm.interrupt(0);
    let next = 0;
    clients.push(async () => {
      await bar0.write64(0, buffers.gpa + (next++ % BUFFERS) * DMA_BYTES);
      await bar0.write32(8, 1);
      await interrupt.next();
    });
  }
  const driven = (some: readonly (() => Promise<void>)[]) => async () => {
    const begin = performance.now();
    const counts = await Promise.all(
      some.map(async (once) => {
        let count = 0;
        for (; performance.now() - begin < DMA_ROUND_MS; count++) await once();
        return count;
      }),
    );
    const seconds = (performance.now() - begin) / 1000;
    return counts.map((count) => (count * DMA_BYTES) / 2 ** 20 / seconds);
  };
  const runs = await interleaved(
    DMA_ROUNDS,
    { alone: driven(clients.slice(0, 1)), together: driven(clients) },
    () => signal.throwIfAborted(),
  );
  const alone = median(runs.alone.map(([rate = 0]) => rate));
  const together = median(runs.together.map((rates) => rates.reduce((sum, rate) => sum + rate, 0)));
  const slowest = median(runs.together.map((rates) => Math.min(...rates)));
  return {
    ...compare(slowest, alone / VMS, {
      peer: 'an eighth of one VM alone, device, clients and controller on one core',
      ...{ bar: { atLeast: 0.9 }, rounds: DMA_ROUNDS },
    }),
    ...{ alone: rounded(alone), together: rounded(together), slowest: rounded(slowest) },
  };
}
