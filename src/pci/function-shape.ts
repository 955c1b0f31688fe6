import { type ExpressOptions, expressCapability } from './capability/express.ts';
import { msiCapability } from './capability/msi.ts';
import {
  type BarPlace,
  msixCapability,
  msixPendingBytes,
  msixTableBytes,
} from './capability/msix.ts';
import { powerManagementCapability } from './capability/power-management.ts';
import type { BarWindow, PciCapability, PciIdentity } from './endpoint.ts';
import { type BarPlan, checkOverlaps, type Extent, PLAN } from './register/bar.ts';

/** What a function's class says of itself: `static readonly id = { … }`. */
export interface FunctionId {
  readonly vendor: number;
  readonly device: number;
  /** 24 bits: base class, sub-class, programming interface. */
  readonly class: number;
  /** Default 0. */
  readonly revision?: number;
  /** Default: the vendor. */
  readonly subsystemVendor?: number;
  /** Default 0. */
  readonly subsystem?: number;
}

/** `static readonly interrupts = { msix: 1 }`. Default: none. */
export interface FunctionInterrupts {
  /** True for the INTA# pin. */
  readonly intx?: boolean;
  /** MSI vectors: 1, 2, 4, 8, 16 or 32. */
  readonly msi?: number;
  /** MSI-X vectors, 1 to 2048, and where their table lies if it matters. */
  readonly msix?: number | MsixPlace;
}

export interface MsixPlace {
  readonly vectors: number;
  /** Index of a memory BAR of the function. */
  readonly bar: number;
  /** Of the table in that BAR; default: after its last register, on a page of its own. */
  readonly offset?: number;
}

/** The static side of a function's class. */
export interface FunctionClass {
  readonly name: string;
  readonly id?: FunctionId | undefined;
  readonly interrupts?: FunctionInterrupts | undefined;
  /** False for a conventional PCI function. Default: PCI Express with function-level reset. */
  readonly express?: boolean | ExpressOptions | undefined;
  /** Indices of BARs whose properties are not called bar0 to bar5. */
  readonly barNames?: Readonly<Record<string, number>> | undefined;
}

/** Everything about a function that does not change while it runs. */
export interface FunctionShape {
  readonly identity: PciIdentity;
  readonly express: boolean;
  readonly capabilities: readonly PciCapability[];
  /** Six entries each. */
  readonly windows: readonly (BarWindow | undefined)[];
  readonly plans: readonly (BarPlan | undefined)[];
  readonly vectors: { readonly intx: 0 | 1; readonly msi: number; readonly msix: number };
}

const BARS = 6;
const PAGE = 4096;

/**
 * Reads the shape off the class and the `bar0` to `bar5` of its instance.
 *
 * @throws RangeError or TypeError that names the class and what is wrong with it.
 */
export function functionShape(
  type: FunctionClass,
  instance: object,
  more: readonly PciCapability[] = [],
): FunctionShape {
  try {
    const { plans, taken } = collectBars(instance, type.barNames ?? {});
    const windows = plans.map((plan) => plan?.window);
    const interrupts = type.interrupts ?? {};
    const express = type.express ?? true;
    const capabilities: PciCapability[] = [];
    if (express !== false) {
      capabilities.push(powerManagementCapability());
      capabilities.push(expressCapability(express === true ? {} : express));
    }
    const msi = interrupts.msi ?? 0;
    if (msi !== 0) capabilities.push(msiCapability({ vectors: msi }));
    const msix = msixVectors(interrupts.msix);
    if (interrupts.msix !== undefined && msix !== 0) {
      const place = placeMsix(interrupts.msix, plans, windows, taken);
      capabilities.push(msixCapability({ vectors: msix, ...place }));
    }
    capabilities.push(...more);
    return {
      identity: identityOf(type.id),
      express: express !== false,
      capabilities,
      windows,
      plans,
      vectors: { intx: interrupts.intx === true ? 1 : 0, msi, msix },
    };
  } catch (error) {
    if (error instanceof Error) error.message = `${type.name}: ${error.message}`;
    throw error;
  }
}

/** MSI-X vectors that a class declares. */
export function msixVectors(declared: FunctionInterrupts['msix']): number {
  return typeof declared === 'object' ? declared.vectors : (declared ?? 0);
}

function identityOf(id: FunctionId | undefined): PciIdentity {
  if (id === undefined) {
    throw new TypeError('expected static readonly id = { vendor, device, class } in the class');
  }
  const checked = (what: string, value: number, bits: number): number => {
    if (!Number.isInteger(value) || value < 0 || value >= 2 ** bits) {
      throw new RangeError(`expected a ${what} of ${bits} bits in static id, got ${value}`);
    }
    return value;
  };
  return {
    vendor: checked('vendor', id.vendor, 16),
    device: checked('device', id.device, 16),
    classCode: checked('class', id.class, 24),
    revision: checked('revision', id.revision ?? 0, 8),
    subsystemVendor: checked('subsystemVendor', id.subsystemVendor ?? id.vendor, 16),
    subsystem: checked('subsystem', id.subsystem ?? 0, 16),
  };
}

function collectBars(
  instance: object,
  names: Readonly<Record<string, number>>,
): {
  readonly plans: (BarPlan | undefined)[];
  /** Indices in use, the upper halves of 64-bit BARs too. */
  readonly taken: Set<number>;
} {
  const plans = new Array<BarPlan | undefined>(BARS).fill(undefined);
  const taken = new Set<number>();
  for (const [name, value] of Object.entries(instance)) {
    const plan = planOf(value);
    if (plan === undefined) continue;
    const index = names[name] ?? Number(/^bar([0-5])$/.exec(name)?.[1] ?? Number.NaN);
    if (Number.isNaN(index)) {
      const others = Object.keys(names).map((other) => ` or ${other}`);
      throw new RangeError(
        `expected a BAR to be named bar0 to bar5${others.join('')}, got '${name}'`,
      );
    }
    if (plans[index] !== undefined) {
      throw new RangeError(`'${name}' is BAR ${index}, which is declared already`);
    }
    plans[index] = plan;
    taken.add(index);
  }
  for (const [index, plan] of plans.entries()) {
    if (plan?.window.width !== 64) continue;
    if (index === BARS - 1) throw new RangeError('bar5 is the last: it cannot have 64 bits');
    if (taken.has(index + 1)) {
      throw new RangeError(
        `bar${index} has 64 bits and takes bar${index + 1} too, which is declared as well`,
      );
    }
    taken.add(index + 1);
  }
  return { plans, taken };
}

function planOf(value: unknown): BarPlan | undefined {
  if (typeof value !== 'object' || value === null || !(PLAN in value)) return undefined;
  return value[PLAN] as BarPlan;
}

/**
 * Table and pending bits, one after the other: where the class says, else in a BAR of their own,
 * else (no index being free) behind the registers of one that has room.
 */
function placeMsix(
  declared: number | MsixPlace,
  plans: readonly (BarPlan | undefined)[],
  windows: (BarWindow | undefined)[],
  taken: ReadonlySet<number>,
): { readonly table: BarPlace; readonly pending: BarPlace } {
  const vectors = msixVectors(declared);
  const table = msixTableBytes(vectors);
  const length = table + msixPendingBytes(vectors);
  const at = (bar: number, offset: number) => ({
    table: { bar, offset },
    pending: { bar, offset: offset + table },
  });
  if (typeof declared === 'object') {
    const { bar } = declared;
    const plan = plans[bar];
    if (plan === undefined || plan.window.kind !== 'memory') {
      throw new RangeError(
        `expected the MSI-X table in a memory BAR of the function, got BAR ${bar}`,
      );
    }
    const offset = declared.offset ?? behind(plan.extents);
    if (offset + length > plan.window.size) {
      throw new RangeError(
        `the MSI-X table of ${length} bytes at 0x${offset.toString(16)} lies outside bar${bar} of 0x${plan.window.size.toString(16)} bytes`,
      );
    }
    checkOverlaps([...plan.extents, { name: 'MSI-X table', offset, end: offset + length }]);
    return at(bar, offset);
  }
  for (let bar = 0; bar < BARS; bar++) {
    if (taken.has(bar)) continue;
    const size = Math.max(PAGE, 2 ** Math.ceil(Math.log2(length)));
    windows[bar] = { size, kind: 'memory', width: 32, prefetchable: false };
    return at(bar, 0);
  }
  for (const [bar, plan] of plans.entries()) {
    if (plan?.window.kind !== 'memory') continue;
    const offset = behind(plan.extents);
    if (offset + length <= plan.window.size) return at(bar, offset);
  }
  throw new RangeError(
    `no BAR is free for the MSI-X table and none has room for its ${length} bytes on a page of their own`,
  );
}

/** The first page after the last register. */
function behind(extents: readonly Extent[]): number {
  return Math.ceil((extents.at(-1)?.end ?? 0) / PAGE) * PAGE;
}
