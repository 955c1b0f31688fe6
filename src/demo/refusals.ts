import { BUFFER_START } from '../devices/edu/dma-engine.ts';
import type { Edu } from '../devices/edu/edu.ts';
import { IdentityDomain } from '../iommu/domain.ts';
import type { FaultRecord } from '../iommu/fault-log.ts';
import { keySlot } from '../keys/key-slot.ts';
import { vmId } from '../keys/vm-id.ts';
import type { Machine, PluggedFunction } from '../machine/machine.ts';
import type { FaultReason } from '../pci/dma-port.ts';
import { formatRequesterId } from '../pci/requester-id.ts';
import type { VirtualMachine } from '../vm/virtual-machine.ts';

/** One DMA that must be refused, and what it did. */
export interface RefusedDma {
  readonly case: string;
  readonly direction: 'read' | 'write';
  /** Bytes of the device's buffer that are not what they were before. */
  readonly bytesDisclosed: number;
  /** Bytes of the guest's memory that are not what they were before. */
  readonly bytesChanged: number;
  /** Fault records that it left, and the reason in the first. */
  readonly faults: number;
  readonly reason: FaultReason | 'none';
}

interface Case {
  readonly name: string;
  readonly directions: readonly ('read' | 'write')[];
  /** Changes the device table; it is put back afterwards. */
  arrange(): void;
  /** The address that the guest programs, where it is not the good one. */
  readonly address?: number;
}

const EMPTY_SLOT = keySlot(7);
const FOREIGN_SLOT = keySlot(2);
const FOREIGN_VM = vmId(2);
const LENGTH = 256;

/**
 * Has the guest start DMAs that the IOMMU must refuse, one by one, and counts what got through.
 * @param target an address in guest memory, quiet while this runs, that the good DMA may use.
 */
export async function tryRefusedDma(
  machine: Machine,
  vm: VirtualMachine,
  plugged: PluggedFunction,
  edu: Edu,
  target: number,
): Promise<RefusedDma[]> {
  const { table } = machine.iommu;
  const { rid } = plugged;
  const entry = table.get(rid);
  if (entry === undefined) throw new Error(`expected an entry for ${formatRequesterId(rid)}`);
  await machine.addSlot(FOREIGN_SLOT, FOREIGN_VM);
  const readOnly = new IdentityDomain(machine.iommu.newDomainId(), 'read');
  const both = ['read', 'write'] as const;
  const cases: readonly Case[] = [
    {
      name: 'no device-table entry',
      directions: both,
      arrange: () => void table.delete(rid),
    },
    {
      name: 'empty key slot',
      directions: both,
      arrange: () => table.set(rid, { ...entry, slotFrom: 'device-table', slot: EMPTY_SLOT }),
    },
    {
      name: "another VM's key slot",
      directions: both,
      arrange: () => table.set(rid, { ...entry, slotFrom: 'device-table', slot: FOREIGN_SLOT }),
    },
    {
      name: 'read-only domain',
      directions: ['write'],
      arrange: () => table.set(rid, { ...entry, domain: readOnly }),
    },
    {
      name: 'address outside RAM',
      directions: both,
      arrange: () => {},
      address: endOfRam(plugged),
    },
  ];

  const results: RefusedDma[] = [];
  for (const { name, directions, arrange, address = target } of cases) {
    for (const direction of directions) {
      const memory = new Uint8Array(LENGTH);
      plugged.port.readInto(target, memory);
      // Nothing of the guest's is in it, so whatever is there afterwards came by this DMA.
      edu.buffer.fill(0xa5);
      const faults: FaultRecord[] = [];
      const stop = machine.iommu.faults.onFault((fault) => faults.push(fault));
      arrange();
      try {
        await startDma(vm, rid, direction, address);
      } finally {
        table.set(rid, entry);
        stop();
      }
      const after = new Uint8Array(LENGTH);
      plugged.port.readInto(target, after);
      results.push({
        case: name,
        direction,
        bytesDisclosed: edu.buffer.filter((byte) => byte !== 0xa5).length,
        bytesChanged: after.filter((byte, index) => byte !== memory[index]).length,
        faults: faults.length,
        reason: faults[0]?.reason ?? 'none',
      });
    }
  }
  return results;
}

function endOfRam({ memory }: PluggedFunction): number {
  const last = memory.regions.all.at(-1);
  return last === undefined ? 0 : last.gpa + last.size;
}

/** The guest programs edu's DMA registers (docs/specs/edu in QEMU) and waits until it has ended. */
async function startDma(
  vm: VirtualMachine,
  rid: PluggedFunction['rid'],
  direction: 'read' | 'write',
  address: number,
): Promise<void> {
  const [source, destination, command] =
    direction === 'read' ? [address, BUFFER_START, 1] : [BUFFER_START, address, 3];
  const bdf = formatRequesterId(rid);
  const stores = [
    ['0x80', '8', hex(source)],
    ['0x88', '8', hex(destination)],
    ['0x90', '8', hex(LENGTH)],
    ['0x98', '4', hex(command)],
  ];
  const words = stores.flatMap((store, index) => (index === 0 ? store : [',', ...store]));
  await vm.check(['pcimem', bdf, '0', ...words], { timeoutMs: 20_000 });
  for (let tries = 0; tries < 100; tries++) {
    const status = await vm.check(['pcimem', bdf, '0', '0x98', '4'], { timeoutMs: 20_000 });
    if ((Number(status.trim()) & 1) === 0) return;
  }
  throw new Error('expected the DMA to end, got a device that stays busy');
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}
