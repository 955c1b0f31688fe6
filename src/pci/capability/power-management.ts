import type { PciCapability } from '../endpoint.ts';
import { CapabilityId, capability } from './capability.ts';

const CAPABILITIES = 0x02;
const CONTROL = 0x04;

const VERSION_3 = 3;
const POWER_STATE = 0x3;
/** Without it a function would have to come back from D3hot reset. */
const NO_SOFT_RESET = 1 << 3;

/**
 * PCI Power Management 1.2 (version 3 of the structure), D0 and D3hot, no PME.
 *
 * @param options.keepsState true (default): a function that goes to D3hot and back keeps its
 *   registers (No_Soft_Reset); false: the transport resets it with the cause `power-state`.
 */
export function powerManagementCapability(
  options: { readonly keepsState?: boolean } = {},
): PciCapability {
  return capability(CapabilityId.powerManagement, 8, (values, writable) => {
    values.setUint16(CAPABILITIES, VERSION_3, true);
    values.setUint16(CONTROL, (options.keepsState ?? true) ? NO_SOFT_RESET : 0, true);
    writable.setUint16(CONTROL, POWER_STATE, true);
  });
}
