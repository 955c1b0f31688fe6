import { type Bar, type Layout, memoryBar } from '../pci/register/bar.ts';
import type { Width } from '../pci/register/register.ts';

/** Room for a device type's fields; none of the specification needs more. */
const CONFIG_BYTES = 4096;

/**
 * Device-specific configuration space (virtio 1.2 section 2.5) as typed fields, declared as the
 * registers of a BAR are, with offsets as the specification's structure has them:
 *
 *     readonly config = deviceConfig({
 *       pageSizeMask: ro64(0, { reset: 0xffff_ffff_ffff_f000n }),
 *       bypass: reg8(36, { onWrite: (now) => this.setBypass(now) }),
 *     });
 *
 * A driver may access a field by any part of it, unless the field says otherwise by `widths`. The
 * property must be named `config`.
 */
export function deviceConfig<const L extends Layout>(layout: L): Bar<L> {
  const entries = Object.entries(layout).map(([name, field]) => {
    if (field.kind === 'ram') return [name, field];
    if (field.kind === 'array') return [name, { ...field, element: byAnyPart(field.element) }];
    return [name, byAnyPart(field)];
  });
  return memoryBar(CONFIG_BYTES, Object.fromEntries(entries) as L);
}

function byAnyPart<T extends { readonly width: Width; readonly options: object }>(field: T): T {
  const widths = ([1, 2, 4, 8] as const).filter((width) => width <= field.width);
  return { ...field, options: { widths, ...field.options } };
}
