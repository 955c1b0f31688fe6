import { type Bar, type Layout, memoryBar } from '../pci/register/bar.ts';

/** Room for a device type's fields; none of the specification needs more. */
const CONFIG_BYTES = 4096;

/**
 * Device-specific configuration space (virtio 1.2 section 2.5) as typed fields, declared as the
 * registers of a BAR are, with offsets as the specification's structure has them:
 *
 *     readonly config = deviceConfig({
 *       pageSizeMask: ro64(0, { reset: ~0xfffn & (2n ** 64n - 1n) }),
 *       bypass: reg8(36, { onWrite: (now) => this.setBypass(now) }),
 *     });
 *
 * A driver reads a wide field by halves too, and may read any field by bytes. The property must be
 * named `config`.
 */
export function deviceConfig<const L extends Layout>(layout: L): Bar<L> {
  return memoryBar(CONFIG_BYTES, layout);
}
