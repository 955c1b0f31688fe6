import type { Namespace } from '../namespace.ts';
import { Status } from '../status.ts';
import type { AdminHost } from './admin-host.ts';
import { BROADCAST_NSID } from './capabilities.ts';

type Namespaces = Pick<AdminHost, 'namespaces' | 'nsidMax'>;

/**
 * The namespace of an NSID, or why there is none (NVMe 1.4 §6.1): Invalid Namespace or Format
 * where it is 0 or above NN, Invalid Field where it is valid and not active.
 */
export function namespaceOf({ namespaces, nsidMax }: Namespaces, nsid: number): Namespace | Status {
  if (nsid === 0 || nsid > nsidMax) return Status.invalidNamespaceOrFormat;
  return namespaces.find((namespace) => namespace.nsid === nsid) ?? Status.invalidField;
}

/** As {@link namespaceOf}, and FFFFFFFFh is all of them. */
export function namespacesOf(host: Namespaces, nsid: number): readonly Namespace[] | Status {
  if (nsid === BROADCAST_NSID) return host.namespaces;
  const namespace = namespaceOf(host, nsid);
  return typeof namespace === 'number' ? namespace : [namespace];
}
