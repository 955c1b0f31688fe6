import type { FaultReason } from '../../../src/pci/dma-port.ts';

/**
 * What a DMA comes to: `done`, with the right data; refused for a reason; or done with noise for data, with a
 * record of why or with none.
 */
export type Outcome =
  | 'done'
  | { readonly refused: FaultReason }
  | { readonly noise: FaultReason | 'no record' };

export type SlotFrom = 'device-table' | 'translation';

export interface Row {
  /** As docs/isolation.md has it. */
  readonly name: string;
  readonly read: Outcome;
  readonly write: Outcome;
  /** Where it is so for one way of finding the slot alone. */
  readonly only?: SlotFrom;
}

function refused(reason: FaultReason): Pick<Row, 'read' | 'write'> {
  return { read: { refused: reason }, write: { refused: reason } };
}

function noise(record: FaultReason | 'no record'): Pick<Row, 'read' | 'write'> {
  return { read: { noise: record }, write: { noise: record } };
}

/** What is true of a function of one VM among several, by what its entry or its mapping says. */
export const matrix = [
  { name: 'the VM’s own slot', read: 'done', write: 'done' },
  { name: 'another VM’s slot', ...refused('slot-of-another-vm') },
  { name: 'an empty slot', ...refused('slot-empty') },
  { name: 'a revoked slot', ...refused('slot-not-active') },
  { name: 'a destroyed slot', ...refused('slot-empty') },
  { name: 'no device-table entry', ...refused('no-device-table-entry') },
  { name: 'bus mastering off', ...refused('bus-master-disabled') },
  { name: 'a read-only mapping', read: 'done', write: { refused: 'no-write-permission' } },
  { name: 'a read-only entry', read: 'done', write: { refused: 'no-write-permission' } },
  { name: 'an address that is not mapped', ...refused('unmapped') },
  { name: 'an address outside memory', ...refused('outside-memory') },
  {
    name: 'a mapping that names a slot, unasked',
    only: 'device-table',
    ...refused('unasked-slot-in-translation'),
  },
  {
    name: 'a mapping that names no slot',
    only: 'translation',
    ...refused('no-slot-in-translation'),
  },
  { name: 'in the clear, a shared page', read: 'done', write: 'done' },
  { name: 'through a key, a shared page', ...noise('page-is-shared') },
  { name: 'in the clear, a private page', ...noise('page-is-private') },
  {
    name: 'a slot that was destroyed and filled again since it was named',
    ...refused('slot-of-another-generation'),
  },
  {
    name: 'a slot whose key is of another generation than the data',
    ...noise('no record'),
  },
  { name: 'a function that was moved to another VM', ...refused('no-device-table-entry') },
] as const satisfies readonly Row[];

export type RowName = (typeof matrix)[number]['name'];
