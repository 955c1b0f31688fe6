import { closeSync, constants, openSync } from 'node:fs';
import { join } from 'node:path';
import type { XtsCipher, XtsEngineName } from '../../crypto/xts-cipher.ts';
import { MAP_SHARED, mmap, PROT_READ, PROT_WRITE } from '../../ffi/libc.ts';
import { keySlot } from '../../keys/key-slot.ts';
import { KeyTable, type SlotDescription } from '../../keys/key-table.ts';
import { type VmId, vmId } from '../../keys/vm-id.ts';
import { DmaGate } from '../dma-gate.ts';
import { FuseConnection } from '../fuse/fuse-connection.ts';
import type { FuseMount } from '../fuse/fuse-mount.ts';
import { Dram } from './dram.ts';
import type { ControllerAnswers, ControllerRequest } from './messages.ts';
import { errorsName, RamFileSystem, scatterName } from './ram-file-system.ts';
import { SealedFile, type SlotCiphers } from './sealed-file.ts';

/**
 * The memory controller: owns DRAM, the key table and the AES engine; one port for the CPU (the
 * page cache over FUSE) and one for DMA, both onto the same thread.
 */
export class Controller implements SlotCiphers {
  readonly #mount: FuseMount;
  readonly #keys: KeyTable;
  readonly #fileSystem = new RamFileSystem();
  readonly #files = new Map<string, SealedFile>();
  readonly #connection: FuseConnection;

  constructor(
    mount: FuseMount,
    engine: XtsEngineName,
    events: { end(error: Error | undefined): void; failure(error: unknown): void },
  ) {
    this.#mount = mount;
    this.#keys = new KeyTable({ engine });
    this.#connection = new FuseConnection(mount.fd, this.#fileSystem, events);
  }

  cipher(slot: number, vm: VmId): XtsCipher | undefined {
    const index = keySlot(slot);
    return this.#keys.refusal(index, vm) === undefined ? this.#keys.cipher(index) : undefined;
  }

  /** Does what a request asks. @throws Error with the words for the asker */
  handle(request: ControllerRequest): ControllerAnswers[keyof ControllerAnswers] {
    switch (request.op) {
      case 'create-memory':
        return this.#createMemory(request);
      case 'generate-key':
        return this.#generateKey(request);
      case 'revoke-key':
        return this.#onSlot(request.slot, (slot) => this.#keys.revoke(slot));
      case 'destroy-key':
        return this.#onSlot(request.slot, (slot) => this.#keys.destroy(slot));
      case 'counters': {
        const file = this.#files.get(request.name);
        if (file === undefined) throw new Error(`expected a RAM file, got ${request.name}`);
        const residentBytes = process.memoryUsage.rss();
        return { ...file.counters, dramPages: file.writtenPages, residentBytes };
      }
      case 'stop':
        return null;
    }
  }

  /** Serves nothing from here on, and wipes every key. */
  close(): void {
    this.#connection.close();
    this.#keys.close();
  }

  #createMemory(
    request: Extract<ControllerRequest, { op: 'create-memory' }>,
  ): ControllerAnswers['create-memory'] {
    const { name, bytes } = request;
    if (!/^[a-z0-9-]{1,64}$/.test(name)) {
      throw new Error(`expected a RAM file's name of a-z, 0-9 and -, got ${JSON.stringify(name)}`);
    }
    const gateBytes = DmaGate.bytesFor(bytes);
    const dram = withFile(request.dram, (fd) => new Dram(fd, bytes));
    const gate = withFile(request.gate, (fd) => {
      const at = mmap(0, gateBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
      return new DmaGate(at, bytes);
    });
    const file = new SealedFile(vmId(request.vm), keySlot(request.slot), dram, gate, this);
    this.#fileSystem.add(name, file);
    this.#files.set(name, file);
    const { directory } = this.#mount;
    const at = (file: string) => join(directory, file);
    return { path: at(name), scatter: at(scatterName(name)), errors: at(errorsName(name)) };
  }

  #generateKey(request: Extract<ControllerRequest, { op: 'generate-key' }>): SlotDescription {
    return this.#onSlot(request.slot, (slot) => {
      this.#keys.generate(slot, { vm: vmId(request.vm), keyBits: request.keyBits });
      this.#keys.activate(slot);
    });
  }

  #onSlot(index: number, change: (slot: ReturnType<typeof keySlot>) => void): SlotDescription {
    const slot = keySlot(index);
    change(slot);
    return this.#keys.describe(slot);
  }
}

/** A mapping outlives its descriptor. */
function withFile<T>(path: string, use: (fd: number) => T): T {
  const fd = openSync(path, constants.O_RDWR);
  try {
    return use(fd);
  } finally {
    closeSync(fd);
  }
}
