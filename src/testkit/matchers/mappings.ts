import { MappedDomain } from '../../iommu/mapped-domain.ts';
import type { Mapping } from '../../iommu/mapping-tree.ts';
import { hex } from '../../trace/event-text.ts';
import { journalOf } from '../device-journal.ts';
import { type MatcherResult, nameOf } from './event-matcher.ts';

const shownMax = 20;

/**
 * Nothing of the guest's memory is mapped for the device any more: what its driver mapped it has
 * unmapped. Needs `iommu: 'virtio'`.
 * @throws TypeError where nobody maps anything for it
 */
export function toHaveNoMappingsLeft(device: unknown): MatcherResult {
  const journal = journalOf(device);
  const { machine, rid } = journal;
  if (machine?.virtioIommu === undefined) {
    throw new TypeError(
      `expected a machine with an IOMMU that the guest programs, got none: ` +
        `test.use({ iommu: 'virtio' })`,
    );
  }
  const domain = machine.iommu.table.get(rid)?.domain;
  const left = domain instanceof MappedDomain ? [...domain.mappings()] : [];
  const name = nameOf(device, journal);
  return {
    pass: left.length === 0,
    message: () =>
      left.length === 0
        ? `expected ${name} to have mappings left, got none`
        : `expected ${name} to have no mappings left, got ${left.length}:\n` +
          left.slice(0, shownMax).map(shown).join('\n') +
          (left.length > shownMax ? `\n    (and ${left.length - shownMax} more)` : ''),
  };
}

function shown({ start, end, address, rights }: Mapping): string {
  return `    ${hex(start)} to ${hex(end)}, at ${hex(address)}, ${rights}`;
}
