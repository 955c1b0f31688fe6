import type { DmaPort } from '../../pci/index.ts';
import { AdminCommands } from './admin/admin-commands.ts';
import type { AdminHost } from './admin/admin-host.ts';
import { Command } from './command.ts';
import { DataPointer } from './data-pointer/data-pointer.ts';
import { DmaBatch } from './dma-batch.ts';
import type { Namespace } from './namespace.ts';
import type { NamespaceGate } from './namespace-gate.ts';
import { QueueCommands, type QueueCommandsHost } from './queue-commands.ts';
import { type Outcome, Status } from './status.ts';
import { statusField } from './status-field.ts';
import type { SubsystemPlace } from './subsystem-place.ts';

/** What the controller lends to its admin queue. */
export interface AdminPortHost extends QueueCommandsHost {
  readonly nsidMax: number;
  readonly serialNumber: string;
  readonly place: SubsystemPlace;
  readonly subsystemNqn: string;
  readonly ioQueuesMax: number;
  readonly transferBytesMax: number;
  readonly uptimeMs: number;
  readonly gates: readonly NamespaceGate[];
  readonly dma: DmaPort;
  readonly nowNs: number;
  wake(): void;
  /** A command's own code has thrown. */
  failed(error: unknown): void;
}

/**
 * The admin queue's commands between the queue and those who execute them: the commands on queues in
 * QueueCommands, all others in AdminCommands. One at a time, their data by DMA of its own.
 */
export class AdminPort implements AdminHost {
  readonly admin: AdminCommands;
  readonly namespaces: readonly Namespace[];
  readonly nsidMax: number;
  readonly serialNumber: string;
  readonly place: SubsystemPlace;
  readonly subsystemNqn: string;
  readonly ioQueuesMax: number;
  readonly msixVectors: number;
  readonly transferBytesMax: number;
  readonly shadowDoorbells: boolean;
  readonly #host: AdminPortHost;
  readonly #queueCommands: QueueCommands;
  readonly #pointer = new DataPointer();
  /** As in a submission queue entry, for the data pointer. */
  readonly #words = new Uint32Array(16);
  readonly #batch = new DmaBatch<undefined>();
  #life = 0;

  constructor(host: AdminPortHost) {
    this.#host = host;
    this.namespaces = host.gates.map(({ namespace }) => namespace);
    this.nsidMax = host.nsidMax;
    this.serialNumber = host.serialNumber;
    this.place = host.place;
    this.subsystemNqn = host.subsystemNqn;
    this.ioQueuesMax = host.ioQueuesMax;
    this.msixVectors = host.msixVectors;
    this.transferBytesMax = host.transferBytesMax;
    this.shadowDoorbells = host.shadowDoorbells;
    this.admin = new AdminCommands(this);
    this.#queueCommands = new QueueCommands(host, this.admin);
  }

  get uptimeMs(): number {
    return this.#host.uptimeMs;
  }

  /** @param entry 64 bytes that stay as they are */
  execute(entry: Uint8Array): void {
    const command = new Command(entry);
    const life = this.#life;
    // SGLs are for I/O commands on this transport (§4.4), and nothing is fused.
    const answer =
      command.psdt !== 0 || command.fused !== 0
        ? { status: Status.invalidField }
        : (this.#queueCommands.execute(command) ?? this.admin.execute(command));
    if (answer === 'pending') return;
    if (answer instanceof Promise) {
      answer.then(
        (outcome) => {
          if (life === this.#life) this.#end(command, outcome);
        },
        (error: unknown) => {
          if (life === this.#life) this.#end(command, { status: Status.internalError });
          this.#host.failed(error);
        },
      );
      return;
    }
    this.#end(command, answer);
  }

  /** The controller was reset: what is still under way is nobody's. */
  forget(): void {
    this.#life++;
    this.admin.reset();
  }

  complete(cid: number, { status, dword0 = 0, more }: Outcome): void {
    const queue = this.#host.queues.submission[0];
    if (queue === undefined) return;
    const field = statusField(status, more);
    queue.completions.hold(0, queue.head, cid, field, dword0, this.#host.nowNs);
    queue.landed();
    this.#host.wake();
  }

  /** Completes it; what went wrong is in the error log first, as the completion's More bit says. */
  #end(command: Command, outcome: Outcome): void {
    const { cid, nsid } = command;
    const { status } = outcome;
    const more = status !== Status.success;
    if (more) this.admin.errorLog.record({ sqid: 0, cid, status, nsid });
    this.complete(cid, more ? { ...outcome, more } : outcome);
  }

  sendData(command: Command, bytes: Uint8Array): Status {
    return this.#transfer(command, bytes, true);
  }

  receiveData(command: Command, length: number): Uint8Array | Status {
    const bytes = new Uint8Array(length);
    const status = this.#transfer(command, bytes, false);
    return status === Status.success ? bytes : status;
  }

  async quiesce(namespaces: readonly Namespace[]): Promise<() => void> {
    const gates = this.#host.gates.filter(({ namespace }) => namespaces.includes(namespace));
    const opens = await Promise.all(gates.map((gate) => gate.close()));
    return () => {
      for (const open of opens) open();
    };
  }

  #transfer(command: Command, bytes: Uint8Array, toHost: boolean): Status {
    if (bytes.length === 0) return Status.success;
    const { dma, pageBytes } = this.#host;
    const words = this.#words;
    const pointers = new BigUint64Array(words.buffer);
    pointers[3] = command.prp1;
    pointers[4] = command.prp2;
    const transfer = { length: bytes.length, toHost, pageBytes };
    const status = this.#pointer.resolve(words, transfer, dma);
    if (status !== Status.success) return status;
    this.#pointer.segments.addTo(this.#batch, undefined, bytes);
    let refused = false;
    const onRefused = () => {
      refused = true;
    };
    if (toHost) this.#batch.write(dma, onRefused);
    else this.#batch.read(dma, onRefused);
    return refused ? Status.dataTransferError : Status.success;
  }
}
