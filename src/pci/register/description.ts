import type { RamWindow } from './address-map.ts';
import type { Cell } from './cell.ts';

/** A register of a BAR, an array of them, or plain memory there, as its declaration names it. */
export interface RegisterDescription {
  readonly name: string;
  /** In the BAR, of the first element; bytes. */
  readonly offset: number;
  /** Bytes of one element; of memory, all of its bytes. */
  readonly width: number;
  /** Elements: more than 1 of an array, `stride` bytes apart. */
  readonly count: number;
  readonly stride: number;
  /** What a guest may do with it as a whole; write-1-to-clear counts as read-write. */
  readonly access: 'read-only' | 'write-only' | 'read-write' | 'memory';
  readonly fields: Readonly<Record<string, FieldDescription>>;
}

export interface FieldDescription {
  /** The lowest bit. */
  readonly low: number;
  readonly bits: number;
  /** It is yes or no, not a number of one bit. */
  readonly flag?: true;
}

/** What a BAR is made of, by rising offset. */
export function describeRegisters(
  cells: readonly Cell[],
  memory: readonly RamWindow[],
): readonly RegisterDescription[] {
  return [...cells.map(describeCell), ...memory.map(describeMemory)].sort(
    (a, b) => a.offset - b.offset,
  );
}

function describeCell(cell: Cell): RegisterDescription {
  const { name, offset, width, count, stride, only } = cell;
  const access =
    only === 'read' ? 'read-only' : only === 'write' ? 'write-only' : ('read-write' as const);
  const fields = Object.fromEntries(
    Object.entries(cell.fields ?? {}).map(([field, { low, bits, flag }]) => [
      field,
      flag ? { low, bits, flag } : { low, bits },
    ]),
  );
  return { name, offset, width, count, stride, access, fields };
}

function describeMemory({ name, offset, length }: RamWindow): RegisterDescription {
  return { name, offset, width: length, count: 1, stride: length, access: 'memory', fields: {} };
}
