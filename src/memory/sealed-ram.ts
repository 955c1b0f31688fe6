import {
  close as closeFile,
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  fsync,
  ftruncateSync,
  openSync,
} from 'node:fs';
import { unlink } from 'node:fs/promises';
import { promisify } from 'node:util';
import { pwrite } from '../ffi/file-io.ts';
import {
  close,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_NORESERVE,
  MAP_PRIVATE,
  MAP_SHARED,
  memfdCreate,
  mmap,
  PROT_READ,
  PROT_WRITE,
  viewOfAddress,
} from '../ffi/libc.ts';
import { SystemError } from '../ffi/system-error.ts';
import type { KeySlot } from '../keys/key-slot.ts';
import type { VmId } from '../keys/vm-id.ts';
import type { BatchQueueOptions } from './batch-queue.ts';
import { dropCache } from './cache-drop.ts';
import type { ControllerAnswers } from './controller/messages.ts';
import { DmaGate } from './dma-gate.ts';
import { MemoryError } from './guest-memory.ts';
import type { MemoryController } from './memory-controller.ts';
import { SealedBatch, type SealedBatchCounters } from './sealed-batch.ts';
import { SealedMemory } from './sealed-memory.ts';
import { SealedPort } from './sealed-port.ts';

const PAGE_BYTES = 4096;
const closeDescriptor = promisify(closeFile);

export interface SealedRamOptions extends Omit<BatchQueueOptions, 'onFallback'> {
  /** Names the file: a-z, 0-9 and -. */
  readonly name: string;
  readonly vm: VmId;
  /** The VM's slot, active. */
  readonly slot: KeySlot;
  /** A multiple of 4096. */
  readonly bytes: number;
}

/** Addresses of the two shared mappings. */
interface Mappings {
  readonly gateAt: number;
  readonly dramAt: number;
}

/**
 * One VM's sealed RAM as the device's process has it: the file that QEMU maps, DRAM to look at, and
 * the way for a DMA. This process may open the file, as it does not serve it; it holds no key.
 */
export class SealedRam {
  readonly name: string;
  readonly bytes: number;
  /** What to give to QEMU as mem-path. */
  readonly path: string;
  readonly #controller: MemoryController;
  readonly #port: SealedPort;
  readonly #batch: SealedBatch;
  readonly #dram: Uint8Array;
  readonly #mappings: Mappings;
  /** Undefined once closed: the number may be another file's by then. */
  #fd: number | undefined;
  #scatter: number | undefined;
  /** Its files' names: the RAM file's and those beside it. */
  readonly #paths: ControllerAnswers['create-memory'];
  /** DRAM's memfd, to be read alone. */
  #dramFile: number | undefined;
  /** Opened at the first flip. */
  #errors: number | undefined;

  private constructor(
    controller: MemoryController,
    options: SealedRamOptions,
    paths: ControllerAnswers['create-memory'],
    mappings: Mappings,
    dramFile: number,
  ) {
    this.#controller = controller;
    this.name = options.name;
    this.bytes = options.bytes;
    const { path, scatter } = paths;
    this.path = path;
    this.#paths = paths;
    this.#mappings = mappings;
    const gate = new DmaGate(mappings.gateAt, options.bytes);
    this.#port = new SealedPort(() => this.#descriptor(), gate, options.bytes);
    this.#batch = new SealedBatch(this.#port, () => this.#open(this.#scatter), {
      ...options,
      onFallback: (why) => controller.report(why),
    });
    this.#dramFile = dramFile;
    this.#dram = viewOfAddress(mappings.dramAt, options.bytes);
    this.#fd = openSync(path, constants.O_RDWR | constants.O_DIRECT);
    this.#scatter = openSync(scatter, constants.O_WRONLY | constants.O_DIRECT);
  }

  /** @throws MemoryError where the controller refuses; RangeError for a size not in whole pages. */
  static async create(controller: MemoryController, options: SealedRamOptions): Promise<SealedRam> {
    const { name, vm, slot, bytes } = options;
    if (!Number.isSafeInteger(bytes) || bytes <= 0 || bytes % PAGE_BYTES !== 0) {
      throw new RangeError(`expected memory in whole pages of ${PAGE_BYTES} bytes, got ${bytes}`);
    }
    const dram = memfdCreate(`sealbus-dram-${name}`);
    const gate = memfdCreate(`sealbus-gate-${name}`);
    try {
      const gateBytes = DmaGate.bytesFor(bytes);
      ftruncateSync(dram, bytes);
      ftruncateSync(gate, gateBytes);
      const paths = await controller.createMemory({
        name,
        vm,
        slot,
        bytes,
        dram: `/proc/${process.pid}/fd/${dram}`,
        gate: `/proc/${process.pid}/fd/${gate}`,
      });
      const gateAt = mmap(0, gateBytes, PROT_READ | PROT_WRITE, MAP_SHARED, gate, 0);
      const dramAt = mmap(0, bytes, PROT_READ, MAP_SHARED, dram, 0);
      // The controller has it open: whoever opens it from here on looks, and changes nothing.
      fchmodSync(dram, 0o400);
      const dramFile = openSync(`/proc/self/fd/${dram}`, constants.O_RDONLY);
      return new SealedRam(controller, options, paths, { gateAt, dramAt }, dramFile);
    } finally {
      close(dram);
      close(gate);
    }
  }

  /** A DMA port's view of it, for one function: it has no regions yet. */
  memory(): SealedMemory {
    const { dev, ino } = fstatSync(this.#descriptor(), { bigint: true });
    const file = { device: dev, inode: ino };
    return new SealedMemory(this.#port, this.#batch, file, (offset, mask) =>
      this.#flip(offset, mask),
    );
  }

  /**
   * DRAM as whoever has the memory modules sees it: ciphertext, and zeros where nothing was written, and
   * all zeros after {@link close}. Writing to it is SIGSEGV.
   */
  dram(): Uint8Array {
    return this.#dram;
  }

  /**
   * {@link dram} as a file, for other processes of the same user to read. What the guest has stored last is there
   * after a {@link flush}, which for them is fsync of {@link path}. Undefined once closed.
   */
  get dramPath(): string | undefined {
    return this.#dramFile === undefined ? undefined : `/proc/${process.pid}/fd/${this.#dramFile}`;
  }

  /** Bytes of shared pages. */
  get sharedBytes(): number {
    return this.#port.shared.count * PAGE_BYTES;
  }

  /** What batches of accesses did so far. */
  get batchCounters(): Readonly<SealedBatchCounters> {
    return this.#batch.counters;
  }

  /** Writes every dirty page back: after it DRAM holds all that the guest stored before. */
  async flush(): Promise<void> {
    await promisify(fsync)(this.#descriptor());
  }

  /** Has what nobody has mapped leave the page cache, once the keys are gone: cache-drop.ts. */
  async dropCache(): Promise<void> {
    await dropCache(this.path, this.bytes);
  }

  counters(): Promise<ControllerAnswers['counters']> {
    return this.#controller.counters(this.name);
  }

  /** Gives up the DMA port and DRAM: a DMA fails from here on. The file stays until its controller stops. */
  close(): void {
    for (const fd of this.#letGo()) {
      try {
        closeSync(fd);
      } catch (error) {
        // A controller that is gone cannot flush; the descriptor is closed all the same (close(2)).
        if ((error as NodeJS.ErrnoException).code !== 'ENOTCONN') throw error;
      }
    }
  }

  /**
   * {@link close}, and takes the memory off its controller, while others that it has go on. To be called
   * when the keys of it are gone, so that nothing is written back: what is dirty in the cache is dropped, and so
   * is all else that nobody has mapped. Whoever still has the file mapped gets SIGBUS at the next page that it
   * misses.
   * @throws MemoryError where the controller refuses; Error where the file cannot be unlinked
   */
  async remove(): Promise<void> {
    const descriptors = this.#letGo();
    if (descriptors.length === 0) return;
    // Not on this thread: a flush of pages that nobody wants would have the other VMs' devices wait.
    for (const fd of descriptors) {
      await closeDescriptor(fd).catch((error: NodeJS.ErrnoException) => {
        if (error.code !== 'EIO' && error.code !== 'ENOTCONN') throw error;
      });
    }
    if (this.#controller.ended) return;
    try {
      await this.dropCache();
    } finally {
      await this.#controller.removeMemory(this.name);
      const { path, scatter, errors } = this.#paths;
      for (const name of [path, scatter, errors]) await unlink(name);
    }
  }

  /** @returns the descriptors, to be closed; none where that was done. */
  #letGo(): number[] {
    const descriptors = [this.#fd, this.#scatter, this.#dramFile, this.#errors].filter(
      (fd) => fd !== undefined,
    );
    if (descriptors.length === 0) return descriptors;
    this.#fd = undefined;
    this.#scatter = undefined;
    this.#dramFile = undefined;
    this.#errors = undefined;
    this.#batch.close();
    // Views of both were handed out, so the addresses stay taken; the memory behind them goes.
    const { gateAt, dramAt } = this.#mappings;
    const nothing = MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    mmap(dramAt, this.bytes, PROT_READ, nothing);
    mmap(gateAt, DmaGate.bytesFor(this.bytes), PROT_READ | PROT_WRITE, nothing);
    return descriptors;
  }

  /** Flips the bits of `mask` in the byte of ciphertext at `offset` of DRAM. @throws MemoryError */
  #flip(offset: number, mask: number): void {
    this.#descriptor();
    this.#errors ??= openSync(this.#paths.errors, constants.O_WRONLY);
    const result = pwrite(this.#errors, Uint8Array.of(mask), offset);
    if (result === 1) return;
    const got = result < 0 ? new SystemError('pwrite', -result).message : 'nothing';
    throw new MemoryError(`expected the memory controller to flip bits of DRAM, got ${got}`);
  }

  #descriptor(): number {
    return this.#open(this.#fd);
  }

  #open(fd: number | undefined): number {
    if (fd !== undefined) return fd;
    throw new MemoryError(`expected sealed RAM that is open, got ${this.name}, which is closed`);
  }
}
