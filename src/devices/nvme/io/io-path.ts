import type { DmaPort } from '../../../pci/index.ts';
import type { StorageBuffers, StorageError } from '../../../storage/block-storage.ts';
import { FETCH, type PointerStep } from '../data-pointer/pointer-step.ts';
import { DmaBatch } from '../dma-batch.ts';
import type { NamespaceGate } from '../namespace-gate.ts';
import type { SubmissionQueue } from '../queue/submission-queue.ts';
import { Status } from '../status.ts';
import { statusField } from '../status-field.ts';
import { CommandPool } from './command-pool.ts';
import { IoAccounts, type IoAccountsHost } from './io-accounts.ts';
import type { IoCommand } from './io-command.ts';
import { ioHandlers } from './io-commands.ts';
import type { IoSurroundings } from './io-handler.ts';
import { IoOpcode } from './io-opcode.ts';
import { BROADCAST } from './read-write.ts';

/** Rounds of storage requests in one turn: a Dataset Management of 256 ranges takes as many. */
const ROUNDS_MAX = 64;

/**
 * Accesses from which on a turn takes no further command's data, each way: a host may cut the data of
 * each command into bytes. What is left has the next turn.
 */
const TURN_ACCESSES = 8192;

const ENOSPC = 28;

export interface IoPathHost extends IoSurroundings, IoAccountsHost {
  readonly buffers: StorageBuffers;
  /** The highest that is valid, whoever has it. */
  readonly nsidMax: number;
  readonly nowNs: number;
  /** Something is to be done in another turn. */
  wake(): void;
  /** The same, once, after a moment: what is wanted is not to be had now. */
  wakeLater(): void;
  /** The last request of an old life is over. */
  drained(): void;
}

/**
 * The way of I/O commands between submission queue and completion queue, all that are ready at once:
 * lists of their data pointers in a batch, the data of writes in a batch, requests to the storages and
 * one kick for each, the data of reads in a batch. Only then are they handed to their completion
 * queues, so that no completion is visible before its data.
 */
export class IoPath {
  readonly #host: IoPathHost;
  readonly #commands: CommandPool;
  readonly #accounts: IoAccounts;
  /** By NSID. */
  readonly #gateOf: (NamespaceGate | undefined)[] = [];
  #life = 0;
  /** Taken from their queues in this turn. */
  readonly #started: IoCommand[] = [];
  /** Their data pointers wait for a list. */
  #walking: IoCommand[] = [];
  #walkingNext: IoCommand[] = [];
  /** They wait for memory, the first come first. */
  readonly #waiting: IoCommand[] = [];
  readonly #ready: IoCommand[] = [];
  /** Their storage request is over. */
  #done: IoCommand[] = [];
  #doneNext: IoCommand[] = [];
  /** Their data is to go to the host. */
  readonly #leaving: IoCommand[] = [];
  readonly #batch = new DmaBatch<IoCommand>();
  /** Requests with a storage: of this life and of old ones. */
  #busy = 0;
  #busyOld = 0;
  /** Of this turn. */
  #nowNs = 0;
  #running = false;
  /** Commands that ended in this turn. */
  #left = 0;
  /** Of data from the host, that this turn may still make. */
  #accessesLeft = 0;

  constructor(host: IoPathHost) {
    this.#host = host;
    this.#commands = new CommandPool(host.buffers, this.#storageDone);
    this.#accounts = new IoAccounts(host);
    for (const gate of host.gates) this.#gateOf[gate.namespace.nsid] = gate;
  }

  /** Commands that may be taken now. None overtake those that wait for memory. */
  get room(): number {
    return this.#waiting.length > 0 ? 0 : this.#commands.room;
  }

  get inFlight(): number {
    return this.#accounts.inFlight;
  }

  /** Whether storages still work for a life of the controller that is over. */
  get draining(): boolean {
    return this.#busyOld > 0;
  }

  /** Whether {@link run} would find something to do. */
  get ready(): boolean {
    return this.#started.length > 0 || this.#unfinished || this.#waiting.length > 0;
  }

  get #unfinished(): boolean {
    return this.#done.length > 0 || this.#ready.length > 0 || this.#leaving.length > 0;
  }

  /** Takes the entry `at` of those that were read of `queue`; {@link room} was there. */
  take(queue: SubmissionQueue, at: number, nowNs: number): void {
    const command = this.#commands.take();
    queue.take(at, command.words);
    command.begin(queue, this.#life);
    this.#accounts.began(nowNs);
    this.#started.push(command);
  }

  /** Everything that can be done now. */
  run(dma: DmaPort, pageBytes: number): void {
    this.#nowNs = this.#host.nowNs;
    this.#left = 0;
    this.#accessesLeft = TURN_ACCESSES;
    this.#running = true;
    try {
      this.#runAll(dma, pageBytes);
    } finally {
      this.#running = false;
    }
    if (this.#unfinished) this.#host.wake();
    else if (this.#waiting.length > 0 && this.#busy === 0) {
      // What left has given memory back; else others have it all, and do not tell when they give it.
      if (this.#left > 0) this.#host.wake();
      else this.#host.wakeLater();
    }
  }

  #runAll(dma: DmaPort, pageBytes: number): void {
    for (const command of this.#started) this.#start(command, pageBytes, dma.maxBytes);
    this.#started.length = 0;
    this.#walk(dma);
    for (let round = 0; round < ROUNDS_MAX; round++) {
      this.#retryWaiting();
      this.#issue(dma);
      this.#kick();
      if (this.#done.length === 0) break;
      this.#advance();
    }
    this.#nowNs = this.#host.nowNs;
    this.#leave(dma);
  }

  /** Commands of that queue that no storage works on end as aborted. */
  abortQueue(queue: SubmissionQueue): void {
    this.#abortWaiting((command) => command.queue === queue, Status.abortedSqDeletion);
  }

  /** @returns whether it was there, and not yet begun. */
  abort(sqid: number, cid: number): boolean {
    const is = (command: IoCommand) => command.queue?.id === sqid && command.cid === cid;
    return this.#abortWaiting(is, Status.abortRequested);
  }

  /**
   * The controller was reset: nothing that is under way reaches the host any more. Requests that a
   * storage has go on, and their memory stays theirs until they are over.
   */
  forget(): void {
    this.#life++;
    this.#busyOld += this.#busy;
    this.#busy = 0;
    for (const commands of [
      ...[this.#started, this.#walking, this.#walkingNext, this.#waiting, this.#ready],
      ...[this.#done, this.#doneNext, this.#leaving],
    ]) {
      // In two lists, or at rest, are only those of a turn that a bug has broken off.
      for (const command of commands) {
        if (!command.busy && command.queue !== undefined) this.#rest(command);
      }
      commands.length = 0;
    }
    // So are requests that no kick has followed.
    this.#kick();
  }

  /** Checks, and where its data lies. */
  #start(command: IoCommand, pageBytes: number, runMax: number): void {
    const status = this.#prepare(command);
    if (status !== Status.success) {
      this.#finish(command, status);
      return;
    }
    if (command.transferBytes === 0) {
      this.#ready.push(command);
      return;
    }
    const transfer = { length: command.transferBytes, toHost: command.toHost, pageBytes };
    this.#stepped(command, command.pointer.begin(command.words, transfer, runMax));
  }

  #prepare(command: IoCommand): Status {
    const { opcode, nsid } = command;
    const handler = ioHandlers[opcode];
    if (handler === undefined) return Status.invalidOpcode;
    command.handler = handler;
    // No fused operations (Identify's FUSES is 0).
    if (command.fused !== 0) return Status.invalidField;
    const { gates } = this.#host;
    if (nsid === BROADCAST && opcode === IoOpcode.flush) {
      if (gates.some((gate) => gate.closed)) return Status.formatInProgress;
      for (const gate of gates) gate.enter();
      command.entered = true;
      return Status.success;
    }
    const gate = this.#gateOf[nsid];
    if (gate === undefined) {
      // Valid and not active: NVMe 1.4 §6.1.5.
      const inactive = nsid > 0 && nsid <= this.#host.nsidMax;
      return inactive ? Status.invalidField : Status.invalidNamespaceOrFormat;
    }
    if (gate.closed) return Status.formatInProgress;
    command.gate = gate;
    gate.enter();
    command.entered = true;
    return handler.prepare(command, this.#host);
  }

  #stepped(command: IoCommand, step: PointerStep): void {
    if (step === FETCH) this.#walkingNext.push(command);
    else if (step === Status.success) this.#ready.push(command);
    else this.#finish(command, step);
  }

  /** Lists, a batch for each level; PRP and SGL bound their levels themselves. */
  #walk(dma: DmaPort): void {
    while (this.#walkingNext.length > 0) {
      const walking = this.#walkingNext;
      this.#walkingNext = this.#walking;
      this.#walking = walking;
      for (const command of walking) {
        this.#batch.add(command, command.pointer.iova, command.pointer.list);
      }
      this.#batch.read(dma, transferRefused);
      for (const command of walking) {
        if (command.status === Status.success) this.#stepped(command, command.pointer.next());
        else this.#finish(command, command.status);
      }
      walking.length = 0;
    }
  }

  /** The commands that wait for memory come first, and in their order. */
  #retryWaiting(): void {
    let count = 0;
    for (const command of this.#waiting) {
      if (!command.takeBuffers(this.#host.buffers)) break;
      count++;
      this.#ready.push(command);
    }
    if (count > 0) this.#waiting.splice(0, count);
  }

  /** Memory, the data of writes, and the first storage request. */
  #issue(dma: DmaPort): void {
    const ready = this.#ready;
    let count = 0;
    let taken = 0;
    while (taken < ready.length && this.#accessesLeft > 0) {
      const command = ready[taken++] as IoCommand;
      const had = command.data !== undefined || command.scratch !== undefined;
      const wants = command.transferBytes > 0 || command.scratchBytes > 0;
      if (wants && !had && !this.#takeBuffers(command)) continue;
      ready[count++] = command;
      if (command.data !== undefined && !command.toHost) {
        command.pointer.segments.addTo(this.#batch, command, command.data);
        this.#accessesLeft -= command.pointer.segments.count;
      }
    }
    this.#batch.read(dma, transferRefused);
    for (let at = 0; at < count; at++) this.#next(ready[at] as IoCommand);
    dropFirst(ready, taken);
  }

  #takeBuffers(command: IoCommand): boolean {
    if (this.#waiting.length === 0 && command.takeBuffers(this.#host.buffers)) return true;
    this.#waiting.push(command);
    return false;
  }

  /** The command's next storage request, or its end. */
  #next(command: IoCommand): void {
    const { handler, status } = command;
    if (status !== Status.success || handler?.next(command, this.#host) !== true) {
      if (command.toHost && command.status === Status.success) this.#leaving.push(command);
      else this.#finish(command, command.status);
      return;
    }
    const gate = command.gate ?? this.#host.gates[command.step];
    command.step++;
    if (gate === undefined) return;
    gate.namespace.storage.submit(command);
    gate.kickDue = true;
    command.busy = true;
    this.#busy++;
  }

  #kick(): void {
    for (const gate of this.#host.gates) {
      if (!gate.kickDue) continue;
      gate.kickDue = false;
      gate.namespace.storage.kick();
    }
  }

  readonly #storageDone = (command: IoCommand, error: StorageError | undefined): void => {
    command.busy = false;
    if (command.life !== this.#life) {
      this.#busyOld--;
      this.#rest(command);
      if (this.#busyOld === 0) this.#host.drained();
      return;
    }
    this.#busy--;
    command.error = error;
    this.#done.push(command);
    if (!this.#running) this.#host.wake();
  };

  #advance(): void {
    const done = this.#done;
    this.#done = this.#doneNext;
    this.#doneNext = done;
    for (const command of done) {
      if (command.error !== undefined) command.status = storageStatus(command.error);
      this.#next(command);
    }
    done.length = 0;
  }

  /** The data of reads to the host, then the commands are over. */
  #leave(dma: DmaPort): void {
    const leaving = this.#leaving;
    if (leaving.length === 0) return;
    let count = 0;
    while (count < leaving.length && this.#batch.count < TURN_ACCESSES) {
      const command = leaving[count++] as IoCommand;
      command.pointer.segments.addTo(this.#batch, command, command.data as Uint8Array);
    }
    this.#batch.write(dma, transferRefused);
    for (let at = 0; at < count; at++) {
      const command = leaving[at] as IoCommand;
      this.#finish(command, command.status);
    }
    dropFirst(leaving, count);
  }

  #finish(command: IoCommand, status: Status): void {
    const queue = command.queue as SubmissionQueue;
    const nowNs = this.#nowNs;
    this.#accounts.ended(command, status);
    const field = statusField(status, status !== Status.success);
    queue.completions.hold(queue.id, queue.head, command.cid, field, 0, nowNs);
    this.#rest(command);
    queue.landed();
  }

  /** The command is over, and free for the next one. */
  #rest(command: IoCommand): void {
    const { gates } = this.#host;
    command.queue = undefined;
    if (command.entered) {
      command.entered = false;
      if (command.gate !== undefined) command.gate.leave();
      else for (const gate of gates) gate.leave();
    }
    this.#commands.give(command);
    this.#accounts.rested(this.#nowNs);
    this.#left++;
  }

  #abortWaiting(is: (command: IoCommand) => boolean, status: Status): boolean {
    let aborted = false;
    for (let at = this.#waiting.length - 1; at >= 0; at--) {
      const command = this.#waiting[at] as IoCommand;
      if (!is(command)) continue;
      this.#waiting.splice(at, 1);
      this.#finish(command, status);
      aborted = true;
    }
    return aborted;
  }
}

function dropFirst(commands: IoCommand[], count: number): void {
  if (count === commands.length) commands.length = 0;
  else commands.splice(0, count);
}

function transferRefused(command: IoCommand): void {
  command.status = Status.dataTransferError;
}

function storageStatus(error: StorageError): Status {
  if (error.errno === ENOSPC) return Status.capacityExceeded;
  if (error.kind === 'read') return Status.unrecoveredRead;
  return Status.writeFault;
}
