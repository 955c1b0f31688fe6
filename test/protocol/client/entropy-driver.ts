import type { Entropy } from '../../../examples/entropy/entropy.ts';
import type { GuestBuffer } from '../../../src/client/guest-buffer.ts';
import type { HostedVmm } from '../../../src/client/hosted-vmm.ts';

/**
 * A driver of a virtio entropy device in forty lines: virtio 1.2 sections 3.1 and 2.7, with one buffer at
 * a time. Offsets are those of struct virtio_pci_common_cfg, at the start of BAR 0.
 */
const FEATURE_SELECT = 0x08;
const FEATURE = 0x0c;
const STATUS = 0x14;
const QUEUE_SIZE = 0x18;
const QUEUE_VECTOR = 0x1a;
const QUEUE_ENABLE = 0x1c;
const QUEUE_DESCRIPTORS = 0x20;
const QUEUE_DRIVER = 0x28;
const QUEUE_DEVICE = 0x30;
const NOTIFY = 0x2000;

const ENTRIES = 8;
const WRITABLE = 2;

export class EntropyDriver {
  readonly #vmm: HostedVmm<Entropy>;
  readonly #table: GuestBuffer;
  readonly #available: GuestBuffer;
  readonly #used: GuestBuffer;
  #taken = 0;

  static async probe(vmm: HostedVmm<Entropy>): Promise<EntropyDriver> {
    const driver = new EntropyDriver(vmm);
    const { bar0 } = vmm;
    for (const status of [0, 1, 3]) await bar0.write8(STATUS, status);
    // VERSION_1 is bit 32.
    await bar0.write32(FEATURE_SELECT, 1);
    await bar0.write32(FEATURE, 1);
    await bar0.write8(STATUS, 11);
    await bar0.write16(QUEUE_SIZE, ENTRIES);
    await bar0.write16(QUEUE_VECTOR, 1);
    await bar0.write64(QUEUE_DESCRIPTORS, driver.#table.gpa);
    await bar0.write64(QUEUE_DRIVER, driver.#available.gpa);
    await bar0.write64(QUEUE_DEVICE, driver.#used.gpa);
    await bar0.write16(QUEUE_ENABLE, 1);
    await bar0.write8(STATUS, 15);
    return driver;
  }

  private constructor(vmm: HostedVmm<Entropy>) {
    this.#vmm = vmm;
    this.#table = vmm.memory.allocate(16 * ENTRIES);
    this.#available = vmm.memory.allocate(6 + 2 * ENTRIES);
    this.#used = vmm.memory.allocate(6 + 8 * ENTRIES);
  }

  async random(length: number): Promise<Uint8Array> {
    const buffer = this.#vmm.memory.allocate(length);
    const slot = this.#taken % ENTRIES;
    this.#table.write64(16 * slot, buffer.gpa);
    this.#table.write32(16 * slot + 8, length);
    this.#table.write16(16 * slot + 12, WRITABLE);
    this.#available.write16(4 + 2 * slot, slot);
    this.#available.write16(2, ++this.#taken & 0xffff);
    await this.#vmm.bar0.write16(NOTIFY, 0);
    await this.#vmm.interrupt(1).next();
    const filled = this.#used.read32(4 + 8 * slot + 4);
    const bytes = buffer.bytes(0, filled);
    buffer.free();
    return bytes;
  }
}
