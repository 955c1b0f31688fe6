import { closeSync, constants, fstatSync, fsync, ftruncateSync, openSync } from 'node:fs';
import { promisify } from 'node:util';
import {
  close,
  MAP_SHARED,
  memfdCreate,
  mmap,
  PROT_READ,
  PROT_WRITE,
  viewOfAddress,
} from '../ffi/libc.ts';
import type { KeySlot } from '../keys/key-slot.ts';
import type { VmId } from '../keys/vm-id.ts';
import type { ControllerAnswers } from './controller/messages.ts';
import { DmaGate } from './dma-gate.ts';
import type { MemoryController } from './memory-controller.ts';
import { SealedMemory } from './sealed-memory.ts';

const PAGE_BYTES = 4096;

export interface SealedRamOptions {
  /** Names the file: a-z, 0-9 and -. */
  readonly name: string;
  readonly vm: VmId;
  /** The VM's slot, active. */
  readonly slot: KeySlot;
  /** A multiple of 4096. */
  readonly bytes: number;
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
  readonly #gate: DmaGate;
  readonly #dram: Uint8Array;
  readonly #fd: number;
  #closed = false;

  private constructor(
    controller: MemoryController,
    options: SealedRamOptions,
    path: string,
    parts: { gate: DmaGate; dram: Uint8Array },
  ) {
    this.#controller = controller;
    this.name = options.name;
    this.bytes = options.bytes;
    this.path = path;
    this.#gate = parts.gate;
    this.#dram = parts.dram;
    this.#fd = openSync(path, constants.O_RDWR | constants.O_DIRECT);
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
      const { path } = await controller.createMemory({
        name,
        vm,
        slot,
        bytes,
        dram: `/proc/${process.pid}/fd/${dram}`,
        gate: `/proc/${process.pid}/fd/${gate}`,
      });
      // Both mappings stay for good: views over them are handed out.
      const gateAt = mmap(0, gateBytes, PROT_READ | PROT_WRITE, MAP_SHARED, gate, 0);
      const dramAt = mmap(0, bytes, PROT_READ, MAP_SHARED, dram, 0);
      return new SealedRam(controller, options, path, {
        gate: new DmaGate(gateAt, bytes),
        dram: viewOfAddress(dramAt, bytes),
      });
    } finally {
      close(dram);
      close(gate);
    }
  }

  /** A DMA port's view of it, for one function: it has no regions yet. */
  memory(): SealedMemory {
    const { dev, ino } = fstatSync(this.#fd, { bigint: true });
    return new SealedMemory(this.#fd, this.#gate, { device: dev, inode: ino }, this.bytes);
  }

  /** DRAM as whoever has the memory modules sees it: ciphertext, and zeros where nothing was written. Writing to it is SIGSEGV. */
  dram(): Uint8Array {
    return this.#dram;
  }

  /** Writes every dirty page back: after it DRAM holds all that the guest stored before. */
  async flush(): Promise<void> {
    await promisify(fsync)(this.#fd);
  }

  counters(): Promise<ControllerAnswers['counters']> {
    return this.#controller.counters(this.name);
  }

  /** Gives up the DMA port; the file stays until its controller stops. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    try {
      closeSync(this.#fd);
    } catch (error) {
      // A controller that is gone cannot flush; the descriptor is closed all the same (close(2)).
      if ((error as NodeJS.ErrnoException).code !== 'ENOTCONN') throw error;
    }
  }
}
