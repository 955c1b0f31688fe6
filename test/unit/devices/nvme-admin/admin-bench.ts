import { AdminCommands } from '../../../../src/devices/nvme/admin/admin-commands.ts';
import type { AdminHost } from '../../../../src/devices/nvme/admin/admin-host.ts';
import { Command } from '../../../../src/devices/nvme/command.ts';
import { Namespace } from '../../../../src/devices/nvme/namespace.ts';
import { type Outcome, Status } from '../../../../src/devices/nvme/status.ts';
import {
  ONLY_CONTROLLER,
  type SubsystemPlace,
} from '../../../../src/devices/nvme/subsystem-place.ts';
import {
  type BlockStorage,
  StorageError,
  type StorageKind,
  type StorageRequest,
} from '../../../../src/storage/block-storage.ts';

/** A submission queue entry by its fields (NVMe 1.4 §4.2). */
export interface Entry {
  readonly opcode: number;
  readonly cid?: number;
  readonly nsid?: number;
  readonly dword10?: number;
  readonly dword11?: number;
  readonly dword12?: number;
  readonly dword13?: number;
}

export function command(entry: Entry): Command {
  const bytes = new Uint8Array(64);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, entry.opcode);
  view.setUint16(2, entry.cid ?? 1, true);
  view.setUint32(4, entry.nsid ?? 0, true);
  view.setUint32(40, entry.dword10 ?? 0, true);
  view.setUint32(44, entry.dword11 ?? 0, true);
  view.setUint32(48, entry.dword12 ?? 0, true);
  view.setUint32(52, entry.dword13 ?? 0, true);
  return new Command(bytes);
}

export interface Step {
  readonly kind: StorageKind;
  readonly offset: number;
  readonly length: number;
}

/** A storage without bytes that notes what it is asked, and that ends requests when it is told to. */
export class StorageDouble implements BlockStorage {
  readonly path: string;
  readonly bytes: number;
  readonly readOnly: boolean;
  discards: boolean;
  readonly steps: Step[] = [];
  /** Requests of this kind fail. */
  failing: StorageKind | undefined;
  /** Discards do nothing from the next one on, as where the file system turns out to have no holes. */
  refusesHoles = false;
  /** Requests wait for {@link finishOne}. */
  held = false;
  #submitted: StorageRequest[] = [];
  #waiting: StorageRequest[] = [];

  constructor(
    bytes: number,
    options: Partial<Pick<BlockStorage, 'path' | 'readOnly' | 'discards'>> = {},
  ) {
    this.bytes = bytes;
    this.path = options.path ?? '/nowhere/disk.img';
    this.readOnly = options.readOnly ?? false;
    this.discards = options.discards ?? true;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  submit(request: StorageRequest): void {
    const { kind, offset, length } = request;
    if (offset < 0 || offset + length > this.bytes) throw new RangeError('outside the storage');
    if (this.readOnly && kind !== 'read') throw new RangeError('the storage is read-only');
    this.#submitted.push(request);
  }

  kick(): void {
    for (const request of this.#submitted.splice(0)) {
      const { kind, offset, length } = request;
      this.steps.push({ kind, offset, length });
      if (this.held) this.#waiting.push(request);
      else this.#finish(request);
    }
  }

  /** Ends the request that waits longest. */
  async finishOne(): Promise<void> {
    this.#finish(this.#waiting.shift()!);
    await turn();
  }

  async close(): Promise<void> {}

  #finish(request: StorageRequest): void {
    if (request.kind === 'discard' && this.refusesHoles) this.discards = false;
    const failed = request.kind === this.failing;
    request.done(failed ? new StorageError(request.kind, 'EIO, as it was told', 5) : undefined);
  }
}

/** Lets all that can go on go on. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** The controller that admin commands belong to, and the host's memory behind it. */
export class HostDouble implements AdminHost {
  namespaces: readonly Namespace[];
  serialNumber = 'SB0001';
  place: SubsystemPlace = ONLY_CONTROLLER;
  subsystemNqn = 'nqn.2026-11.example:sealbus';
  ioQueuesMax = 16;
  msixVectors = 17;
  transferBytesMax = 512 * 1024;
  shadowDoorbells = true;
  uptimeMs = 0;
  /** What was sent to the host, by the order of the commands. */
  readonly sent: Uint8Array[] = [];
  /** What the host has for a command that takes data. */
  data = new Uint8Array(0);
  transferStatus: Status = Status.success;
  readonly completions: (readonly [cid: number, outcome: Outcome])[] = [];
  /** Namespaces whose I/O is held back, by NSID. */
  readonly quiesced = new Set<number>();

  constructor(namespaces: readonly Namespace[]) {
    this.namespaces = namespaces;
  }

  get nsidMax(): number {
    return this.namespaces.at(-1)?.nsid ?? 0;
  }

  sendData(_command: Command, bytes: Uint8Array): Status {
    if (this.transferStatus === Status.success) this.sent.push(bytes.slice());
    return this.transferStatus;
  }

  receiveData(_command: Command, length: number): Uint8Array | Status {
    if (this.transferStatus !== Status.success) return this.transferStatus;
    return this.data.slice(0, length);
  }

  complete(cid: number, outcome: Outcome): void {
    this.completions.push([cid, outcome]);
  }

  async quiesce(namespaces: readonly Namespace[]): Promise<() => void> {
    await turn();
    for (const { nsid } of namespaces) this.quiesced.add(nsid);
    return () => {
      for (const { nsid } of namespaces) this.quiesced.delete(nsid);
    };
  }
}

export const MIB = 2 ** 20;

/** NSIDs 1, 2 and 5: two that can be written, one whose file is read-only; 3 and 4 are inactive. */
export function bench(change: Partial<HostDouble> = {}) {
  const storages = {
    1: new StorageDouble(8 * MIB + 100),
    2: new StorageDouble(64 * MIB, { discards: false }),
    5: new StorageDouble(4 * MIB, { readOnly: true }),
  };
  const namespaces = [
    new Namespace(1, storages[1]),
    new Namespace(2, storages[2], 4096),
    new Namespace(5, storages[5]),
  ] as const;
  const host = Object.assign(new HostDouble(namespaces), change);
  const admin = new AdminCommands(host);
  /** Executes a command that is not answered `pending`. */
  const run = async (entry: Entry): Promise<Outcome> => {
    const answer = await admin.execute(command(entry));
    if (answer === 'pending') throw new Error('the command is pending');
    return answer;
  };
  /** The status alone, as the specification's numbers have it: type in 10:8, code in 7:0. */
  const statusOf = async (entry: Entry): Promise<number> => (await run(entry)).status;
  /** The data of a command that succeeds. */
  const dataOf = async (entry: Entry): Promise<DataView> => {
    const before = host.sent.length;
    const status = await statusOf(entry);
    if (status !== 0 || host.sent.length !== before + 1) {
      throw new Error(`expected success and data, got status 0x${status.toString(16)}`);
    }
    const bytes = host.sent.at(-1)!;
    return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  };
  return { admin, host, storages, namespaces, run, statusOf, dataOf };
}

export function text(view: DataView, offset: number, length: number): string {
  return String.fromCharCode(...bytesOf(view, offset, length));
}

export function bytesOf(view: DataView, offset: number, length: number): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset + offset, length);
}
