import type { StorageBuffers } from '../../../storage/block-storage.ts';
import { IoCommand, type StorageDone } from './io-command.ts';

/** Commands in flight, over all queues: what bounds memory. */
export const COMMANDS_MAX = 1024;
/** Commands at rest that keep their small buffer. */
const KEPT_MAX = 128;

/** The I/O commands of a controller: made when first needed, and used again. */
export class CommandPool {
  readonly #done: StorageDone;
  readonly #buffers: StorageBuffers;
  /** At rest, the one used last on top. */
  readonly #free: IoCommand[] = [];
  #made = 0;

  constructor(buffers: StorageBuffers, done: StorageDone) {
    this.#buffers = buffers;
    this.#done = done;
  }

  /** Commands that may be taken. */
  get room(): number {
    return COMMANDS_MAX - this.#made + this.#free.length;
  }

  /** {@link room} was there. */
  take(): IoCommand {
    const command = this.#free.pop();
    if (command !== undefined) return command;
    this.#made++;
    return new IoCommand(this.#done);
  }

  /** The command is over; no storage has a request of it. */
  give(command: IoCommand): void {
    if (this.#free.length < KEPT_MAX) command.giveBuffers(this.#buffers);
    else command.giveAll(this.#buffers);
    this.#free.push(command);
  }
}
