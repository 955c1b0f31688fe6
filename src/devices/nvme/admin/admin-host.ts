import type { Command } from '../command.ts';
import type { Namespace } from '../namespace.ts';
import type { Outcome, Status } from '../status.ts';
import type { SubsystemPlace } from '../subsystem-place.ts';

/**
 * What the admin commands need of the controller they belong to. The controller implements it; a
 * test's double stands in for it. Queues (create, delete, abort, doorbell buffer) are not here: they
 * are the controller's own.
 */
export interface AdminHost {
  /** By rising NSID; all of them are attached. */
  readonly namespaces: readonly Namespace[];
  /** The highest that is valid, whoever has it (Identify's NN). */
  readonly nsidMax: number;
  readonly serialNumber: string;
  readonly place: SubsystemPlace;
  /** NVMe qualified name of the subsystem. */
  readonly subsystemNqn: string;
  /** I/O submission and completion queues that it has room for, each. */
  readonly ioQueuesMax: number;
  readonly msixVectors: number;
  /** Bytes of one command's data at most; identify's MDTS says it. */
  readonly transferBytesMax: number;
  /** Whether Doorbell Buffer Config is offered (OACS bit 8). */
  readonly shadowDoorbells: boolean;
  /** Milliseconds since power-on, for the SMART log. */
  readonly uptimeMs: number;
  /** Writes `bytes` to the host through the command's PRPs or SGL; what the command got. */
  sendData(command: Command, bytes: Uint8Array): Status;
  /** Reads `length` bytes from the host; or the status the command fails with. */
  receiveData(command: Command, length: number): Uint8Array | Status;
  /** Completes a command that was answered `pending`, such as an asynchronous event request. */
  complete(cid: number, outcome: Outcome): void;
  /**
   * Waits until no I/O command of the namespaces is in flight and holds new ones back (with Format
   * in Progress) until the returned function is called.
   */
  quiesce(namespaces: readonly Namespace[]): Promise<() => void>;
}

/** An admin command's handler answers at once, later, or (`pending`) through {@link AdminHost.complete}. */
export type AdminAnswer = Outcome | Promise<Outcome> | 'pending';
