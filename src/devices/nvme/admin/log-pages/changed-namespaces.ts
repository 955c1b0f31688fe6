import { BROADCAST_NSID } from '../capabilities.ts';
import { list, structure, u32 } from '../structure.ts';

const NSIDS_MAX = 1024;

/** Changed Namespace List (log 04h), NVMe 1.4 §5.14.1.4. */
const changedNamespaceLog = structure(4096, { nsids: list(u32(0), NSIDS_MAX) });

/** Namespaces whose Identify data has changed since the host read this log. */
export class ChangedNamespaces {
  readonly #nsids = new Set<number>();

  get empty(): boolean {
    return this.#nsids.size === 0;
  }

  add(nsid: number): void {
    this.#nsids.add(nsid);
  }

  /** By rising NSID; FFFFFFFFh alone where they are more than the page holds. */
  data(): Uint8Array<ArrayBuffer> {
    const nsids = [...this.#nsids].sort((a, b) => a - b);
    return changedNamespaceLog.write({
      nsids: nsids.length > NSIDS_MAX ? [BROADCAST_NSID] : nsids,
    });
  }

  clear(): void {
    this.#nsids.clear();
  }
}
