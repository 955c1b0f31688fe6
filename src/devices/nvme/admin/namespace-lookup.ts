import type { Namespace } from '../namespace.ts';
import { Status } from '../status.ts';
import { BROADCAST_NSID } from './capabilities.ts';

/**
 * The namespace of an NSID, or why there is none (NVMe 1.4 §6.1): Invalid Namespace or Format
 * where it is 0 or above NN, Invalid Field where it is valid and no namespace has it.
 */
export function namespaceOf(namespaces: readonly Namespace[], nsid: number): Namespace | Status {
  const highest = namespaces.at(-1)?.nsid ?? 0;
  if (nsid === 0 || nsid > highest) return Status.invalidNamespaceOrFormat;
  return namespaces.find((namespace) => namespace.nsid === nsid) ?? Status.invalidField;
}

/** As {@link namespaceOf}, and FFFFFFFFh is all of them. */
export function namespacesOf(
  namespaces: readonly Namespace[],
  nsid: number,
): readonly Namespace[] | Status {
  if (nsid === BROADCAST_NSID) return namespaces;
  const namespace = namespaceOf(namespaces, nsid);
  return typeof namespace === 'number' ? namespace : [namespace];
}
