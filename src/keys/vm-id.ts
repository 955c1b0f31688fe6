/** Names a VM inside this process: a small integer, never reused while the process lives. */
export type VmId = number & { readonly __unit: 'vm' };

export const VM_ID_MAX = 0xffff;

/** @throws RangeError where it is not a VM's number. */
export function vmId(id: number): VmId {
  if (!Number.isInteger(id) || id < 0 || id > VM_ID_MAX) {
    throw new RangeError(`expected a VM id from 0 to ${VM_ID_MAX}, got ${id}`);
  }
  return id as VmId;
}
