import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { keySlot } from '../../../src/keys/key-slot.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { KeySlots } from '../../../src/machine/key-slots.ts';
import { SlotRegister } from '../../../src/machine/slot-register.ts';
import { gpa, type MemoryRun } from '../../../src/memory/guest-memory.ts';
import { MemoryController } from '../../../src/memory/memory-controller.ts';
import type { SealedMemory } from '../../../src/memory/sealed-memory.ts';
import { SealedRam, type SealedRamOptions } from '../../../src/memory/sealed-ram.ts';

/** Whether sealed RAM can be served here at all: why not, or undefined. */
export function noSealedRam(): string | undefined {
  try {
    closeSync(openSync('/dev/fuse', 'r+'));
    return undefined;
  } catch (error) {
    return `sealed RAM is not tested here: /dev/fuse cannot be opened (${String(error)})`;
  }
}

export interface SealedBench extends AsyncDisposable {
  readonly directory: string;
  readonly controller: MemoryController;
  /** Its key slots: slot 1 is VM 1's and active. */
  readonly keys: KeySlots;
  readonly ram: SealedRam;
  readonly memory: SealedMemory;
  readonly failures: string[];
  readonly lost: Error[];
}

/** A controller of its own with one VM's RAM at guest-physical 0, under slot 1. */
export async function sealedBench(
  bytes: number,
  options: Partial<SealedRamOptions> = {},
): Promise<SealedBench> {
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-test-'));
  const failures: string[] = [];
  const lost: Error[] = [];
  const controller = await MemoryController.start({
    directory: join(directory, 'ram'),
    onFailure: (message) => failures.push(message),
    onLost: (error) => lost.push(error),
  });
  const keys = new KeySlots(new SlotRegister(), controller.keys);
  await keys.generate(keySlot(1), { vm: vmId(1) });
  await keys.activate(keySlot(1));
  const ram = await SealedRam.create(controller, {
    name: 'vm1',
    vm: vmId(1),
    slot: keySlot(1),
    bytes,
    ...options,
  });
  const memory = ram.memory();
  memory.regions.add({ gpa: gpa(0), size: bytes, readable: true, writable: true, backing: 0 });
  return {
    directory,
    controller,
    keys,
    ram,
    memory,
    failures,
    lost,
    async [Symbol.asyncDispose]() {
      ram.close();
      await controller.stop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** One run of a batch over all of `bytes`. */
export function runOf(address: number, bytes: Uint8Array, slot = 1): MemoryRun {
  return {
    ...{ address: gpa(address), slot: keySlot(slot), bytes, start: 0 },
    ...{ length: bytes.length, failure: undefined },
  };
}
