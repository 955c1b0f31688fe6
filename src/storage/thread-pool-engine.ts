/**
 * The engine for hosts without io_uring: Node's own file calls, which run on libuv's pool of threads
 * (UV_THREADPOOL_SIZE, 4 by default), and fallocate through koffi on the same pool. Each end comes from
 * the event loop.
 */
import { fdatasync, read, write } from 'node:fs';
import { fallocateOnThread } from '../ffi/fallocate.ts';
import type { EngineListener, EngineOperation, StorageEngine } from './storage-engine.ts';

const EIO = 5;

/** Minus the errno of an error of `node:fs`. */
function negative(error: NodeJS.ErrnoException): number {
  return error.errno !== undefined && error.errno < 0 ? error.errno : -EIO;
}

export class ThreadPoolEngine implements StorageEngine {
  readonly name = 'threads';
  readonly #fd: number;
  readonly #listener: EngineListener;

  constructor(fd: number, listener: EngineListener) {
    this.#fd = fd;
    this.#listener = listener;
  }

  start(operation: EngineOperation): void {
    const { call, bytes, offset, length } = operation;
    const end = (error: NodeJS.ErrnoException | null, count = 0) =>
      this.#end(operation, error === null ? count : negative(error));
    if (call === 'datasync') fdatasync(this.#fd, end);
    else if (call === 'fallocate') {
      const done = (result: number) => this.#end(operation, result);
      fallocateOnThread(this.#fd, operation.mode, offset, length, done);
    } else if (bytes === undefined) throw new TypeError(`expected bytes to ${call}, got none`);
    else if (call === 'read') read(this.#fd, bytes, 0, length, offset, end);
    else if (call === 'write') write(this.#fd, bytes, 0, length, offset, end);
    else {
      write(this.#fd, bytes, 0, length, offset, (error, count) => {
        if (error !== null) end(error);
        else fdatasync(this.#fd, (failed) => end(failed, count));
      });
    }
  }

  #end(operation: EngineOperation, result: number): void {
    try {
      this.#listener.ended(operation, result);
    } finally {
      this.#listener.settled();
    }
  }

  submit(): void {}

  close(): void {}
}
