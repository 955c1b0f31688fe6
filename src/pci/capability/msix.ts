import type { PciCapability } from '../endpoint.ts';
import { CapabilityId, capability } from './capability.ts';

const CONTROL = 0x02;
const TABLE = 0x04;
const PENDING = 0x08;

const ENABLE = 1 << 15;
const FUNCTION_MASK = 1 << 14;

const VECTORS_MAX = 2048;

/** A place in a BAR: its index (the BIR) and an offset that is a multiple of 8. */
export interface BarPlace {
  readonly bar: number;
  readonly offset: number;
}

export interface MsixOptions {
  /** 1 to 2048. */
  readonly vectors: number;
  readonly table: BarPlace;
  readonly pending: BarPlace;
}

/** Bytes of the vector table: 16 a vector. */
export function msixTableBytes(vectors: number): number {
  return vectors * 16;
}

/** Bytes of the pending bit array: a bit a vector, in quadwords. */
export function msixPendingBytes(vectors: number): number {
  return Math.ceil(vectors / 64) * 8;
}

/** MSI-X, PCI Local Bus 3.0 section 6.8.2. @throws RangeError */
export function msixCapability(options: MsixOptions): PciCapability {
  const { vectors, table, pending } = options;
  if (!Number.isInteger(vectors) || vectors < 1 || vectors > VECTORS_MAX) {
    throw new RangeError(`expected 1 to ${VECTORS_MAX} MSI-X vectors, got ${vectors}`);
  }
  return capability(CapabilityId.msix, 12, (values, writable) => {
    values.setUint16(CONTROL, vectors - 1, true);
    writable.setUint16(CONTROL, ENABLE | FUNCTION_MASK, true);
    values.setUint32(TABLE, placed('table', table), true);
    values.setUint32(PENDING, placed('pending bit array', pending), true);
  });
}

function placed(what: string, { bar, offset }: BarPlace): number {
  if (!Number.isInteger(bar) || bar < 0 || bar > 5) {
    throw new RangeError(`expected the MSI-X ${what} in BAR 0 to 5, got ${bar}`);
  }
  if (!Number.isInteger(offset) || offset < 0 || offset > 0xffff_fff8 || offset % 8 !== 0) {
    throw new RangeError(`expected the MSI-X ${what} at a multiple of 8 bytes, got ${offset}`);
  }
  return offset + bar;
}
