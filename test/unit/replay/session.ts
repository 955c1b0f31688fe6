import { BlockedDomain, IdentityDomain } from '../../../src/iommu/domain.ts';
import { Iommu } from '../../../src/iommu/iommu.ts';
import { keySlot } from '../../../src/keys/key-slot.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { SlotRegister } from '../../../src/machine/slot-register.ts';
import { gpa } from '../../../src/memory/guest-memory.ts';
import { PlainMemory } from '../../../src/memory/plain-memory.ts';
import type { PciEndpoint, ResetCause } from '../../../src/pci/endpoint.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { Trace } from '../../../src/trace/trace.ts';
import { BenchInterrupts } from '../pci/bench.ts';

const MEMORY_BYTES = 64 * 1024;
const SLOT = keySlot(1);
const VM = vmId(1);

/** A device that is recorded while a test drives it: a real IOMMU over an array, no socket. */
export class Session {
  readonly trace: Trace;
  readonly memory = new Uint8Array(MEMORY_BYTES);
  readonly interrupts = new BenchInterrupts();
  readonly #iommu: Iommu;
  readonly #device: PciEndpoint;
  readonly #rid = parseRequesterId('00:05.0');

  constructor(device: PciEndpoint, trace = new Trace({ dataBytesMax: Number.POSITIVE_INFINITY })) {
    this.trace = trace;
    const slots = new SlotRegister();
    slots.enter({ slot: SLOT, state: 'active', vm: VM, generation: 1, keyBits: 256 });
    const ram = new PlainMemory();
    const { memory } = this;
    ram.regions.add({
      ...{ gpa: gpa(0), size: MEMORY_BYTES, readable: true, writable: true },
      backing: {
        readInto: (offset, into) => into.set(memory.subarray(offset, offset + into.length)),
        writeFrom: (offset, from) => memory.set(from, offset),
      },
    });
    this.#iommu = new Iommu(slots);
    trace.watch(this.#iommu, 'plain');
    const port = this.#iommu.port(this.#rid, ram);
    port.busMaster = true;
    this.reach(true);
    this.#device = trace.around(device, this.#rid);
    this.#device.plug({
      dma: port,
      interrupts: this.interrupts,
      unmodelled: () => {},
      fault: () => {},
    });
  }

  /** Whether its DMA is let through. */
  reach(allowed: boolean): void {
    const id = this.#iommu.newDomainId();
    const domain = allowed ? new IdentityDomain(id) : new BlockedDomain(id);
    this.#iommu.table.set(this.#rid, { domain, vm: VM, slot: SLOT, rights: 'read-write' });
  }

  read(offset: number, width = 4, bar = 0): bigint {
    const bytes = new Uint8Array(8);
    this.#device.readBar(bar, offset, bytes.subarray(0, width));
    return new DataView(bytes.buffer).getBigUint64(0, true);
  }

  write(offset: number, value: number | bigint, width = 4, bar = 0): void {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, BigInt.asUintN(64, BigInt(value)), true);
    this.#device.writeBar(bar, offset, bytes.subarray(0, width));
  }

  reset(cause: ResetCause = 'device'): void {
    this.#device.reset(cause);
  }

  /** Lets promises, immediates and timers of no delay go on. */
  async turn(turns = 1): Promise<void> {
    for (let i = 0; i < turns; i++) await new Promise<void>((resolve) => setImmediate(resolve));
  }
}
