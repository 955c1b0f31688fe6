import { closeSync, constants, openSync } from 'node:fs';
import { join } from 'node:path';
import type { XtsEngineName } from '../../crypto/xts-cipher.ts';
import { MAP_SHARED, mmap, munmap, PROT_READ, PROT_WRITE } from '../../ffi/libc.ts';
import { keySlot } from '../../keys/key-slot.ts';
import { KeyTable, type SlotKeys } from '../../keys/key-table.ts';
import type { RotationProgress } from '../../keys/slot-keeper.ts';
import type { SlotDescription } from '../../keys/slot-lifecycle.ts';
import { type VmId, vmId } from '../../keys/vm-id.ts';
import type { DescriptorReceiver } from '../descriptor-channel.ts';
import { DmaGate } from '../dma-gate.ts';
import { FuseConnection } from '../fuse/fuse-connection.ts';
import type { FuseMount } from '../fuse/fuse-mount.ts';
import { Dram } from './dram.ts';
import { KeyRequests } from './key-requests.ts';
import type { ControllerAnswers, ControllerRequest } from './messages.ts';
import { errorsName, RamFileSystem, scatterName } from './ram-file-system.ts';
import { Rotations } from './rotations.ts';
import { type KeySource, SealedFile } from './sealed-file.ts';

/** What happens in the controller that no request asked for. */
export interface ControllerEvents {
  /** The kernel ended the connection; with an error where it broke. */
  end(error: Error | undefined): void;
  failure(error: unknown): void;
  rotation(progress: RotationProgress, slot: SlotDescription): void;
}

/**
 * The memory controller: owns DRAM, the key table and the AES engine; one port for the CPU (the
 * page cache over FUSE) and one for DMA, both onto the same thread.
 */
export class Controller implements KeySource {
  readonly #mount: FuseMount;
  readonly #keys: KeyTable;
  readonly #fileSystem = new RamFileSystem();
  readonly #memories = new Map<string, Memory>();
  readonly #connection: FuseConnection;
  readonly #rotations: Rotations;
  readonly #keyRequests: KeyRequests;

  constructor(
    mount: FuseMount,
    engine: XtsEngineName,
    descriptors: DescriptorReceiver,
    events: ControllerEvents,
  ) {
    this.#mount = mount;
    const keys = new KeyTable({ engine });
    const connection = new FuseConnection(mount.fd, this.#fileSystem, events);
    this.#keys = keys;
    this.#connection = connection;
    this.#rotations = new Rotations({
      keys,
      memories: (vm) =>
        [...this.#memories.values()]
          .filter(({ file }) => file.vm === vm)
          .map(({ file }) => file.dram),
      serve: () => connection.serve(),
      requests: () => connection.taken,
      tell: (progress) => events.rotation(progress, keys.describe(progress.slot)),
      failure: (error) => events.failure(error),
    });
    this.#keyRequests = new KeyRequests(keys, this.#rotations, descriptors);
  }

  keysFor(slot: number, vm: VmId): SlotKeys | undefined {
    return this.#keys.keysFor(keySlot(slot), vm);
  }

  /** Does what a request asks. @throws Error with the words for the asker */
  handle(request: ControllerRequest): ControllerAnswers[keyof ControllerAnswers] {
    switch (request.op) {
      case 'create-memory':
        return this.#createMemory(request);
      case 'remove-memory':
        return this.#removeMemory(request.name);
      case 'counters': {
        const { file } = this.#memory(request.name);
        const residentBytes = process.memoryUsage.rss();
        return { ...file.counters, dramPages: file.writtenPages, residentBytes };
      }
      case 'stop':
        return null;
      default:
        return this.#keyRequests.handle(request);
    }
  }

  /** Serves nothing from here on, and wipes every key. */
  close(): void {
    this.#connection.close();
    this.#rotations.close();
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
    const gateAt = withFile(request.gate, (fd) =>
      mmap(0, gateBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0),
    );
    const gate = new DmaGate(gateAt, bytes);
    const file = new SealedFile(vmId(request.vm), keySlot(request.slot), dram, gate, this);
    this.#fileSystem.add(name, file);
    this.#memories.set(name, { file, gateAt });
    const { directory } = this.#mount;
    const at = (file: string) => join(directory, file);
    return { path: at(name), scatter: at(scatterName(name)), errors: at(errorsName(name)) };
  }

  /** From its return on no request for that memory finds it, so its mappings may go. */
  #removeMemory(name: string): null {
    const { file, gateAt } = this.#memory(name);
    this.#fileSystem.remove(file);
    this.#memories.delete(name);
    file.dram.close();
    munmap(gateAt, DmaGate.bytesFor(file.bytes));
    return null;
  }

  #memory(name: string): Memory {
    const memory = this.#memories.get(name);
    if (memory === undefined) throw new Error(`expected a RAM file, got ${name}`);
    return memory;
  }
}

/** One VM's memory. */
interface Memory {
  readonly file: SealedFile;
  /** Where its gate is mapped. */
  readonly gateAt: number;
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
