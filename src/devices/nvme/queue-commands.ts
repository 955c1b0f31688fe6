import type { AdminCommands } from './admin/admin-commands.ts';
import type { AdminAnswer } from './admin/admin-host.ts';
import { AdminOpcode } from './admin/capabilities.ts';
import type { Command } from './command.ts';
import type { IoPath } from './io/io-path.ts';
import { iovaFrom } from './iova.ts';
import { CompletionQueue, type CompletionQueueHost } from './queue/completion-queue.ts';
import type { QueueSet } from './queue/queue-set.ts';
import { SubmissionQueue } from './queue/submission-queue.ts';
import { QUEUE_ENTRIES_MAX } from './registers.ts';
import { type Outcome, Status, SUCCESS } from './status.ts';

/** Sizes of entries as powers of two of bytes: 64 and 16. */
export const SUBMISSION_ENTRY_SHIFT = 6;
export const COMPLETION_ENTRY_SHIFT = 4;

export interface QueueCommandsHost {
  readonly queues: QueueSet;
  readonly io: IoPath;
  readonly pageBytes: number;
  /** CC.IOSQES and CC.IOCQES. */
  readonly submissionEntryShift: number;
  readonly completionEntryShift: number;
  readonly msixVectors: number;
  readonly shadowDoorbells: boolean;
  /** Of the commands under way, what makes a batch of completions. */
  readonly batchShare: number;
  readonly completions: CompletionQueueHost;
  /** Posts what a completion queue holds without waiting for more, as far as it has room. */
  postHeld(queue: CompletionQueue): void;
  /** A queue was made: shadow doorbells are told of it. */
  queueMade(queue: number): void;
  /** The host has asked for shadow doorbells; false where the buffers cannot be reached. */
  useShadow(shadow: bigint, events: bigint): boolean;
}

/** Admin commands that work on queues: NVMe 1.4 §5.1, §5.3 to §5.7. */
export class QueueCommands {
  readonly #host: QueueCommandsHost;
  readonly #admin: AdminCommands;

  constructor(host: QueueCommandsHost, admin: AdminCommands) {
    this.#host = host;
    this.#admin = admin;
  }

  /** Undefined where the command is none of these. */
  execute(command: Command): AdminAnswer | undefined {
    switch (command.opcode) {
      case AdminOpcode.createIoCompletionQueue:
        return failed(this.#createCompletion(command));
      case AdminOpcode.createIoSubmissionQueue:
        return failed(this.#createSubmission(command));
      case AdminOpcode.deleteIoSubmissionQueue:
        return this.#deleteSubmission(command);
      case AdminOpcode.deleteIoCompletionQueue:
        return failed(this.#deleteCompletion(command));
      case AdminOpcode.abort:
        return this.#abort(command);
      case AdminOpcode.doorbellBufferConfig:
        return failed(this.#doorbellBufferConfig(command));
      default:
        return undefined;
    }
  }

  /** §5.3. */
  #createCompletion(command: Command): Status {
    const { queues, msixVectors } = this.#host;
    const admin = this.#admin;
    const id = command.dword(10) & 0xffff;
    const size = (command.dword(10) >>> 16) + 1;
    const flags = command.dword(11);
    const vector = flags >>> 16;
    const { ioCompletionQueues } = admin.features;
    if (id === 0 || id > ioCompletionQueues || queues.completion[id] !== undefined) {
      return Status.invalidQueueId;
    }
    if (this.#host.completionEntryShift !== COMPLETION_ENTRY_SHIFT) return Status.invalidQueueSize;
    const refused = this.#placement(command, size, flags);
    if (refused !== Status.success) return refused;
    if (vector >= msixVectors) return Status.invalidInterruptVector;
    const interrupts = (flags & 2) !== 0;
    const { batchShare: share, completions: host } = this.#host;
    const options = { size, vector, interrupts, share, host };
    queues.addCompletion(new CompletionQueue(id, iovaFrom(command.prp1), options));
    admin.features.ioQueuesCreated = true;
    this.#host.queueMade(id);
    return Status.success;
  }

  /** §5.4. */
  #createSubmission(command: Command): Status {
    const { queues } = this.#host;
    const admin = this.#admin;
    const id = command.dword(10) & 0xffff;
    const size = (command.dword(10) >>> 16) + 1;
    const flags = command.dword(11);
    const completions = queues.completion[flags >>> 16];
    if (flags >>> 16 === 0 || completions === undefined) return Status.completionQueueInvalid;
    const { ioSubmissionQueues } = admin.features;
    if (id === 0 || id > ioSubmissionQueues || queues.submission[id] !== undefined) {
      return Status.invalidQueueId;
    }
    if (this.#host.submissionEntryShift !== SUBMISSION_ENTRY_SHIFT) return Status.invalidQueueSize;
    const refused = this.#placement(command, size, flags);
    if (refused !== Status.success) return refused;
    queues.addSubmission(new SubmissionQueue(id, size, iovaFrom(command.prp1), completions));
    admin.features.ioQueuesCreated = true;
    this.#host.queueMade(id);
    return Status.success;
  }

  /** Size, contiguity (CAP.CQR is 1) and place of a queue. */
  #placement(command: Command, size: number, flags: number): Status {
    if (size < 2 || size > QUEUE_ENTRIES_MAX) return Status.invalidQueueSize;
    if ((flags & 1) === 0) return Status.invalidField;
    if ((command.prp1 & BigInt(this.#host.pageBytes - 1)) !== 0n) return Status.prpOffsetInvalid;
    return Status.success;
  }

  /**
   * §5.6. Entries that were not taken are dropped. Commands that wait for memory are aborted; the
   * others end in their own way, and only then does the deletion, when their completions are in host
   * memory: nothing of the queue comes after it. Where the host has left no room for them it deletes
   * the queue without having seen them end, and they are dropped, for it may never make room.
   */
  #deleteSubmission(command: Command): AdminAnswer {
    const { queues, io } = this.#host;
    const id = command.dword(10) & 0xffff;
    const queue = id === 0 ? undefined : queues.submission[id];
    if (queue === undefined) return { status: Status.invalidQueueId };
    // A deletion that is under way already has the queue's end.
    if (queue.onDrained !== undefined) return { status: Status.invalidQueueId };
    const { promise, resolve } = Promise.withResolvers<Outcome>();
    let gone = false;
    const end = () => {
      if (gone) return;
      gone = true;
      this.#host.postHeld(queue.completions);
      queue.completions.drop(id);
      queues.removeSubmission(queue);
      resolve(SUCCESS);
    };
    queue.onDrained = end;
    io.abortQueue(queue);
    if (queue.inFlight === 0) end();
    return gone ? SUCCESS : promise;
  }

  /** §5.5. */
  #deleteCompletion(command: Command): Status {
    const { queues } = this.#host;
    const id = command.dword(10) & 0xffff;
    const queue = id === 0 ? undefined : queues.completion[id];
    if (queue === undefined) return Status.invalidQueueId;
    if (queue.users > 0) return Status.invalidQueueDeletion;
    queues.removeCompletion(queue);
    return Status.success;
  }

  /** §5.1. Dword 0 is 0 where the command was aborted, 1 where it was not. */
  #abort(command: Command): Outcome {
    const { io } = this.#host;
    const admin = this.#admin;
    const sqid = command.dword(10) & 0xffff;
    const cid = command.dword(10) >>> 16;
    const aborted = sqid === 0 ? admin.events.abort(cid) : io.abort(sqid, cid);
    return { status: Status.success, dword0: aborted ? 0 : 1 };
  }

  /** §5.7. */
  #doorbellBufferConfig(command: Command): Status {
    if (!this.#host.shadowDoorbells) return Status.invalidOpcode;
    const { prp1, prp2 } = command;
    const inPage = BigInt(this.#host.pageBytes - 1);
    if (((prp1 | prp2) & inPage) !== 0n) return Status.invalidField;
    return this.#host.useShadow(prp1, prp2) ? Status.success : Status.dataTransferError;
  }
}

function failed(status: Status): Outcome {
  return status === Status.success ? SUCCESS : { status };
}
