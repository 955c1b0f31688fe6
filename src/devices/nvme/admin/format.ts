import type { Command } from '../command.ts';
import type { BlockBytes, Namespace } from '../namespace.ts';
import { type Outcome, Status, SUCCESS } from '../status.ts';
import type { AdminAnswer, AdminHost } from './admin-host.ts';
import { LBA_FORMATS } from './identify-namespace.ts';
import { namespacesOf } from './namespace-lookup.ts';
import type { ResetCount } from './reset-count.ts';
import { storageStep } from './storage-steps.ts';

/** Secure Erase Settings, dword 10 bits 11:9: NVMe 1.4 §5.23. */
const SecureErase = { none: 0, userData: 1 } as const;

/**
 * Bytes of one erasing request. The host's file system does a request in one go, so a piece bounds
 * how long a reset has to wait for the last of them.
 */
const PIECE_BYTES = { 'write-zeroes': 64 * 2 ** 20, discard: 1024 * 2 ** 20 } as const;

const LEAST_BLOCK_BYTES = Math.min(...LBA_FORMATS);

const ABORTED: Outcome = Object.freeze({ status: Status.abortRequested });

/**
 * Format NVM (NVMe 1.4 §5.23). After it no data from before can be read: without secure erase the
 * storage is deallocated where it can be, else and for a user data erase it is filled with zeros.
 *
 * A format that fails, or that a reset of the controller ends, leaves the namespace with its old
 * format and a part of its data erased.
 */
export class FormatNvm {
  readonly #host: AdminHost;
  readonly #resets: ResetCount;
  readonly #changed: (nsid: number) => void;
  /** Percent that is still to be done, of the namespaces that a format is under way on. */
  readonly #remaining = new Map<Namespace, number>();

  constructor(host: AdminHost, resets: ResetCount, changed: (nsid: number) => void) {
    this.#host = host;
    this.#resets = resets;
    this.#changed = changed;
  }

  /** Format Progress Indicator (FPI bits 6:0): percent, 0 where no format is under way. */
  remaining(namespace: Namespace): number {
    return this.#remaining.get(namespace) ?? 0;
  }

  execute(command: Command): AdminAnswer {
    const dword10 = command.dword(10);
    const protection = (dword10 >>> 5) & 7;
    const secureErase = (dword10 >>> 9) & 7;
    const namespaces = namespacesOf(this.#host, command.nsid);
    if (typeof namespaces === 'number') return { status: namespaces };
    // Metadata settings and the place of protection information mean nothing without either.
    const blockBytes = LBA_FORMATS[dword10 & 0xf];
    if (blockBytes === undefined || protection !== 0) return { status: Status.invalidFormat };
    if (secureErase !== SecureErase.none && secureErase !== SecureErase.userData) {
      return { status: Status.invalidField };
    }
    if (namespaces.some((namespace) => namespace.readOnly)) {
      return { status: Status.namespaceWriteProtected };
    }
    if (namespaces.some((namespace) => this.#remaining.has(namespace))) {
      return { status: Status.formatInProgress };
    }
    for (const namespace of namespaces) this.#remaining.set(namespace, 100);
    return this.#format(namespaces, blockBytes, secureErase === SecureErase.userData);
  }

  async #format(
    namespaces: readonly Namespace[],
    blockBytes: BlockBytes,
    secure: boolean,
  ): Promise<Outcome> {
    const reset = this.#resets.now;
    let release: (() => void) | undefined;
    try {
      release = await this.#host.quiesce(namespaces);
      for (const namespace of namespaces) {
        if (!(await this.#erase(namespace, secure, reset))) return ABORTED;
        namespace.reformat(blockBytes);
        this.#changed(namespace.nsid);
      }
      return SUCCESS;
    } catch {
      return { status: Status.internalError };
    } finally {
      for (const namespace of namespaces) this.#remaining.delete(namespace);
      release?.();
    }
  }

  /** Whether it was done before a reset came. @throws StorageError, RangeError */
  async #erase(namespace: Namespace, secure: boolean, reset: number): Promise<boolean> {
    const { storage } = namespace;
    // A format with smaller blocks reaches bytes that one with larger blocks leaves behind the last.
    const end = storage.bytes - (storage.bytes % LEAST_BLOCK_BYTES);
    for (let offset = 0; offset < end; ) {
      if (this.#resets.now !== reset) return false;
      // Not 0 before it is done: 0 says that no format is under way.
      this.#remaining.set(namespace, Math.ceil(100 * (1 - offset / end)));
      const kind = !secure && storage.discards ? 'discard' : 'write-zeroes';
      const length = Math.min(PIECE_BYTES[kind], end - offset);
      await storageStep(storage, kind, offset, length);
      // A storage finds out by trying that it cannot discard, and then has done nothing.
      if (kind === 'write-zeroes' || storage.discards) offset += length;
    }
    if (this.#resets.now !== reset) return false;
    await storageStep(storage, 'flush');
    return this.#resets.now === reset;
  }
}
