import type { Command } from '../command.ts';
import type { Namespace } from '../namespace.ts';
import { type Outcome, Status, SUCCESS } from '../status.ts';
import type { AdminAnswer } from './admin-host.ts';
import type { Feature } from './feature-table.ts';
import { storageStep } from './storage-steps.ts';

/** Write Protection State, dword 11 bits 2:0: those offered (NWPC bit 0). */
const State = { none: 0, writeProtect: 1 } as const;

/**
 * Namespace Write Protection Config (84h), NVMe 1.4 §5.21.1 and §8.19. The state outlasts resets
 * of the controller, and ends with the process: it is kept nowhere. A namespace whose file is
 * read-only is write-protected for good.
 */
export class WriteProtection implements Feature {
  readonly namespaceSpecific = true;
  readonly #changed: (nsid: number) => void;

  constructor(changed: (nsid: number) => void) {
    this.#changed = changed;
  }

  get(
    which: 'current' | 'default',
    _command: Command,
    namespace: Namespace | undefined,
  ): { readonly value: number } {
    const isProtected = which === 'default' ? namespace!.storage.readOnly : namespace!.readOnly;
    return { value: isProtected ? State.writeProtect : State.none };
  }

  /**
   * Writes that are refused from here on are none of those in flight, which race this command on
   * queues of their own: a Flush, which is not refused, puts them on the disk as well.
   */
  set(command: Command, namespaces: readonly Namespace[]): AdminAnswer {
    const state = command.dword(11) & 7;
    if (state !== State.none && state !== State.writeProtect) {
      return { status: Status.invalidField };
    }
    const wanted = state === State.writeProtect;
    if (!wanted && namespaces.some(({ storage }) => storage.readOnly)) {
      return { status: Status.featureNotChangeable };
    }
    const changed = namespaces.filter(({ writeProtected }) => writeProtected !== wanted);
    for (const namespace of changed) {
      namespace.writeProtected = wanted;
      this.#changed(namespace.nsid);
    }
    return wanted ? flushNamespaces(changed) : SUCCESS;
  }
}

/** Puts on the disks what was written; Internal Error where a disk failed. */
export async function flushNamespaces(namespaces: readonly Namespace[]): Promise<Outcome> {
  const writable = namespaces.filter(({ storage }) => !storage.readOnly);
  const flushes = writable.map(({ storage }) => storageStep(storage, 'flush'));
  const results = await Promise.allSettled(flushes);
  const failed = results.some(({ status }) => status === 'rejected');
  return failed ? { status: Status.internalError } : SUCCESS;
}
