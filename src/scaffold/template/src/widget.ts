/**
 * A device that sums: it takes jobs from a ring in guest memory, and gives the CRC-32 (IEEE 802.3, as
 * zlib has it) of the buffer that each of them names.
 *
 * | BAR 0 | register | |
 * |---|---|---|
 * | 0x00 | identity | what it is: 0x5ea1c001 |
 * | 0x04 | control | bit 0 enable: 1 starts with an empty ring, 0 ends all work |
 * | 0x08 | ring | address of 16 jobs |
 * | 0x10 | doorbell | how many jobs the driver has put into the ring since it was enabled |
 * | 0x14 | head | how many of them are done; MSI-X vector 0 says that it has changed |
 * | 0x18 | status | bit 0 error: the ring cannot be read, or the doorbell says more than it holds |
 *
 * | job | 32 bytes, little-endian |
 * |---|---|
 * | 0 | address of the buffer, 8 bytes |
 * | 8 | its length in bytes, 1 to 65536 |
 * | 12 | state, which the device sets: 0 to do, 1 done, 2 failed |
 * | 16 | the sum, which the device sets |
 */
import { crc32 } from 'node:zlib';
import { bit, DmaAbort, memoryBar, PciFunction, reg32, reg64, ro32, wo32 } from 'sealbus/pci';

export const identity = 0x5ea1c001;
export const ringJobs = 16;
export const jobBytes = 32;
export const lengthMax = 65_536;

export const jobState = { toDo: 0, done: 1, failed: 2 } as const;

export class WidgetDevice extends PciFunction {
  static override readonly id = { vendor: 0x1b36, device: 0x5eb2, class: 0xff0000 };
  static override readonly interrupts = { msix: 1 };

  readonly bar0 = memoryBar(4096, {
    identity: ro32(0x00, { reset: identity }),
    control: reg32(
      0x04,
      { enable: bit(0) },
      { onWrite: (now, before) => now.enable !== before.enable && this.#restart() },
    ),
    ring: reg64(0x08),
    doorbell: wo32(0x10, { onWrite: () => this.#work() }),
    head: ro32(0x14),
    status: ro32(0x18, { error: bit(0) }),
  });

  #working = false;

  protected override onReset() {
    this.#working = false;
  }

  #restart() {
    this.endWork();
    this.#working = false;
    this.bar0.doorbell = this.bar0.head = 0;
    this.bar0.status.error = false;
  }

  /** Until nothing is left to do; a doorbell that rings meanwhile is seen by the same loop. */
  async #work() {
    const { control, status } = this.bar0;
    if (this.#working || !control.enable || status.error) return;
    this.#working = true;
    const { untilReset } = this;
    try {
      for (let job = this.bar0.head; job !== this.bar0.doorbell; job = (job + 1) >>> 0) {
        if ((this.bar0.doorbell - job) >>> 0 > ringJobs) throw new RangeError('a wild doorbell');
        await this.#do(job);
      }
    } catch (error) {
      if (!(error instanceof DmaAbort || error instanceof RangeError)) throw error;
      status.error = true;
      this.complete(() => this.msix.raise(0));
    } finally {
      if (!untilReset.aborted) this.#working = false; // else that is the next life's
    }
  }

  async #do(job: number) {
    const at = this.bar0.ring + BigInt((job % ringJobs) * jobBytes);
    const entry = Buffer.from(await this.dma.read(at, jobBytes));
    const result = Buffer.alloc(8);
    const sum = await this.#sum(entry.readBigUInt64LE(0), entry.readUInt32LE(8));
    result.writeUInt32LE(sum === undefined ? jobState.failed : jobState.done, 0);
    result.writeUInt32LE(sum ?? 0, 4);
    await this.dma.write(at + 12n, result);
    this.complete(() => {
      this.bar0.head = (job + 1) >>> 0;
      this.msix.raise(0);
    });
  }

  /** Undefined where the buffer is none that the device may read. */
  async #sum(address: bigint, length: number) {
    if (length < 1 || length > lengthMax) return undefined;
    try {
      return crc32(await this.dma.read(address, length));
    } catch (error) {
      if (error instanceof DmaAbort) return undefined;
      throw error;
    }
  }
}
