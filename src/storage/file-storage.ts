/**
 * A disk on one open file. A request waits in a bounded queue until {@link FileStorage.kick}; then it
 * is done on the spot where it can be (resident-io.ts), and else goes through the engine, at most
 * OPERATIONS_MAX at once; what is left waits for ends of those.
 *
 * A flush covers every write whose `done` was called before it was submitted: by then the write is in
 * the page cache or on the disk, and fdatasync, which starts later, takes all of it.
 */
import { close } from 'node:fs';
import type { BackingFile } from './backing-file.ts';
import { type BlockStorage, StorageError, type StorageRequest } from './block-storage.ts';
import { type FileAbilities, Operation } from './operation.ts';
import { RequestQueue } from './request-queue.ts';
import { RESIDENT_BYTES_PER_KICK, type ResidentIo } from './resident-io.ts';
import { addressOf } from './storage-buffers.ts';
import {
  type EngineListener,
  type EngineOperation,
  OPERATIONS_MAX,
  type StorageEngine,
} from './storage-engine.ts';

/** Requests that may wait beside those under way: more than any buffers for them. */
export const WAITING_MAX = 16_384;
/** Charged to the bound of a kick for each request that is done on the spot, however short. */
const RESIDENT_COST_MIN = 4096;
/** And for one that turns out to be for the engine: a system call or two. */
const RESIDENT_TRY_COST = 1024;
/** Turns of a kick in which what ended makes room for what waits. */
const ROUNDS_MAX = 8;

export class FileStorage implements BlockStorage, EngineListener {
  readonly path: string;
  readonly bytes: number;
  readonly readOnly: boolean;
  readonly #file: BackingFile;
  readonly #abilities: FileAbilities;
  readonly #resident: ResidentIo | undefined;
  readonly #engine: StorageEngine;
  readonly #waiting = new RequestQueue(WAITING_MAX);
  readonly #idle: Operation[] = [];
  /** Operations under way, and those of them that change the file. */
  #underWay = 0;
  #changing = 0;
  #kicking = false;
  /** Between the first of several ends that come from the event loop and `settled`. */
  #ending = false;
  #goingOn: NodeJS.Immediate | undefined;
  #closing: Promise<void> | undefined;
  #whenIdle: (() => void) | undefined;

  /** @param openEngine told who listens; may throw, then the file is the caller's still. */
  constructor(
    file: BackingFile,
    resident: ResidentIo | undefined,
    discards: boolean,
    openEngine: (listener: EngineListener) => StorageEngine,
  ) {
    this.#file = file;
    this.path = file.path;
    this.bytes = file.bytes;
    this.readOnly = file.readOnly;
    const { path, blockDevice } = file;
    this.#abilities = { path, blockDevice, zeroes: true, discards };
    this.#resident = resident;
    this.#engine = openEngine(this);
    for (let index = OPERATIONS_MAX - 1; index >= 0; index--) {
      this.#idle.push(new Operation(index, this.#abilities));
    }
  }

  get discards(): boolean {
    return this.#abilities.discards;
  }

  submit(request: StorageRequest): void {
    this.#check(request);
    if (this.#closing !== undefined) {
      setImmediate(() => tell(request, this.#closed(request)));
      return;
    }
    if (!this.#waiting.push(request)) {
      throw new RangeError(
        `disk ${this.path}: expected at most ${WAITING_MAX} requests that wait, got one more; ` +
          'wait for ends before submitting others',
      );
    }
  }

  kick(): void {
    // From a done(): one kick for all who ask, behind the last of the ends that are being told of.
    if (this.#kicking || this.#ending) return;
    this.#kicking = true;
    try {
      let budget = RESIDENT_BYTES_PER_KICK;
      for (let round = 0; round < ROUNDS_MAX; round++) {
        budget = this.#dispatch(budget);
        this.#engine.submit();
        if (this.#waiting.length === 0 || this.#idle.length === 0) break;
      }
    } finally {
      this.#kicking = false;
    }
    this.#afterwards();
  }

  close(): Promise<void> {
    this.#closing ??= this.#end();
    return this.#closing;
  }

  ended(operation: EngineOperation, result: number): void {
    const ended = operation as Operation;
    if (!this.#kicking) this.#ending = true;
    if (ended.advance(result)) {
      this.#engine.start(ended);
      return;
    }
    this.#release(ended);
  }

  settled(): void {
    this.#ending = false;
    // Calls that an end has set, and requests for which there is room now.
    this.kick();
  }

  /** Takes requests out of the queue as long as there is room for them. @returns what is left of `budget` */
  #dispatch(budget: number): number {
    let left = budget;
    while (this.#idle.length > 0) {
      const request = this.#waiting.shift();
      if (request === undefined) break;
      const address = request.bytes === undefined ? 0 : (addressOf(request.bytes) ?? 0);
      if (left > 0) {
        if (this.#atOnce(request, address)) {
          left -= Math.max(request.length, RESIDENT_COST_MIN);
          tell(request, undefined);
          continue;
        }
        left -= RESIDENT_TRY_COST;
      }
      this.#start(request, address);
    }
    return left;
  }

  #atOnce(request: StorageRequest, address: number): boolean {
    const { kind, length, offset } = request;
    if (length === 0 && kind !== 'flush') return true;
    const resident = this.#resident;
    if (resident === undefined) return false;
    if (kind === 'read') return resident.read(address, length, offset);
    if (this.#changing > 0) return false;
    if (kind === 'write') return resident.write(address, length, offset, request.durable);
    return kind === 'flush' && (this.readOnly || resident.flush());
  }

  #start(request: StorageRequest, address: number): void {
    if (request.length === 0 && request.kind !== 'flush') {
      tell(request, undefined);
      return;
    }
    const operation = this.#idle.pop() as Operation;
    this.#underWay++;
    if (request.kind !== 'read') this.#changing++;
    if (operation.begin(request, address)) this.#engine.start(operation);
    else this.#release(operation);
  }

  #release(operation: Operation): void {
    const { request, error } = operation;
    operation.end();
    this.#idle.push(operation);
    this.#underWay--;
    if (request?.kind !== 'read') this.#changing--;
    if (request !== undefined) tell(request, error);
  }

  #afterwards(): void {
    if (this.#waiting.length > 0 && this.#underWay === 0 && this.#goingOn === undefined) {
      this.#goingOn = setImmediate(() => {
        this.#goingOn = undefined;
        this.kick();
      });
    }
    if (this.#waiting.length === 0 && this.#underWay === 0) this.#whenIdle?.();
  }

  async #end(): Promise<void> {
    await this.#untilIdle();
    let failed: StorageError | undefined;
    if (!this.readOnly) {
      failed = await new Promise((resolve) => {
        const flush = { kind: 'flush', offset: 0, length: 0, bytes: undefined } as const;
        this.#waiting.push({ ...flush, durable: false, done: resolve });
        this.kick();
      });
      // The operation that was told of has been given back, but its kick may still be on the stack.
      await this.#untilIdle();
    }
    this.#engine.close();
    await new Promise<void>((resolve, reject) => {
      close(this.#file.fd, (error) => (error === null ? resolve() : reject(error)));
    });
    if (failed !== undefined) throw failed;
  }

  async #untilIdle(): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#whenIdle = resolve;
      setImmediate(() => this.kick());
    });
    this.#whenIdle = undefined;
  }

  #closed(request: StorageRequest): StorageError {
    const message = `disk ${this.path}: expected an open disk to ${request.kind}, got one that is closed`;
    return new StorageError(request.kind, message);
  }

  #check(request: StorageRequest): void {
    const { kind, offset, length, bytes } = request;
    const inside =
      Number.isSafeInteger(offset) &&
      Number.isSafeInteger(length) &&
      offset >= 0 &&
      length >= 0 &&
      offset <= this.bytes - length;
    if (!inside) {
      throw new RangeError(
        `disk ${this.path}: expected a range inside ${this.bytes} bytes, got ${length} at offset ${offset}`,
      );
    }
    if (this.readOnly && kind !== 'read' && kind !== 'flush') {
      throw new RangeError(`disk ${this.path}: expected reads of a read-only disk, got ${kind}`);
    }
    if (kind !== 'read' && kind !== 'write') return;
    if (bytes === undefined || bytes.length !== length || addressOf(bytes) === undefined) {
      throw new RangeError(
        `disk ${this.path}: expected ${length} bytes of storage buffers to ${kind}, ` +
          `got ${bytes === undefined ? 'none' : `${bytes.length} of ${addressOf(bytes) === undefined ? 'other memory' : 'them'}`}`,
      );
    }
  }
}

/** One that throws, though it must not, must end neither the others that are told of nor the process. */
function tell(request: StorageRequest, error: StorageError | undefined): void {
  try {
    request.done(error);
  } catch (thrown) {
    process.emitWarning(thrown instanceof Error ? thrown : String(thrown));
  }
}
