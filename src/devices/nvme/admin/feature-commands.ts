import type { Command } from '../command.ts';
import type { Namespace } from '../namespace.ts';
import { type Outcome, Status } from '../status.ts';
import type { AdminAnswer, AdminHost } from './admin-host.ts';
import { BROADCAST_NSID } from './capabilities.ts';
import type { Feature } from './feature-table.ts';
import { namespaceOf, namespacesOf } from './namespace-lookup.ts';

/** Select, dword 10 bits 10:8: NVMe 1.4 §5.13. */
const Select = { current: 0, default: 1, saved: 2, supportedCapabilities: 3 } as const;

/** Dword 0 for supported capabilities; no feature here is saveable (bit 0). */
const Capability = { namespaceSpecific: 1 << 1, changeable: 1 << 2 } as const;

/** Save, dword 10 of Set Features. */
const SAVE = 2 ** 31;

/** Get Features (NVMe 1.4 §5.13) and Set Features (§5.21). */
export class FeatureCommands {
  readonly #host: AdminHost;
  readonly #table: ReadonlyMap<number, Feature>;

  constructor(host: AdminHost, table: ReadonlyMap<number, Feature>) {
    this.#host = host;
    this.#table = table;
  }

  get(command: Command): Outcome {
    const feature = this.#table.get(command.dword(10) & 0xff);
    const select = (command.dword(10) >>> 8) & 7;
    if (feature === undefined || select > Select.supportedCapabilities) {
      return { status: Status.invalidField };
    }
    if (select === Select.supportedCapabilities) {
      const specific = feature.namespaceSpecific ? Capability.namespaceSpecific : 0;
      return { status: Status.success, dword0: Capability.changeable | specific };
    }
    let namespace: Namespace | undefined;
    if (feature.namespaceSpecific) {
      const found = namespaceOf(this.#host, command.nsid);
      if (typeof found === 'number') return { status: found };
      namespace = found;
    }
    // What is not saveable has its default for a saved value.
    const got = feature.get(select === Select.current ? 'current' : 'default', command, namespace);
    return 'value' in got ? { status: Status.success, dword0: got.value } : got;
  }

  set(command: Command): AdminAnswer {
    const feature = this.#table.get(command.dword(10) & 0xff);
    if (feature === undefined) return { status: Status.invalidField };
    if (command.dword(10) >= SAVE) return { status: Status.featureNotSaveable };
    const { nsid } = command;
    if (feature.namespaceSpecific) {
      const named = namespacesOf(this.#host, nsid);
      return typeof named === 'number' ? { status: named } : feature.set(command, named);
    }
    if (nsid !== 0 && nsid !== BROADCAST_NSID) {
      const found = namespaceOf(this.#host, nsid);
      return { status: typeof found === 'number' ? found : Status.featureNotNamespaceSpecific };
    }
    return feature.set(command, []);
  }
}
