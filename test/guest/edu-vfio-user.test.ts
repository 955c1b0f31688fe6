/** The suite that QEMU's own edu passes, on ours: over vfio-user, in plain and in sealed memory. */
import { Edu } from '../../src/devices/edu/edu.ts';
import { Machine } from '../../src/machine/machine.ts';
import { formatRequesterId, parseRequesterId } from '../../src/pci/requester-id.ts';
import { ensureParts } from '../../src/setup/ensure-parts.ts';
import { eduDriverSuite } from './edu-suite.ts';

const address = parseRequesterId('00:04.0');

/** Edu says for its type that it is no Express function: this one differs in just that. */
const EduConstructor: new () => Edu = Edu;
/** With a PCI Express capability, so that the kernel can reset it alone. */
class ExpressEdu extends EduConstructor {
  static readonly express = true;
}

function suite(name: string, memory: 'plain' | 'sealed', make: () => Edu, resettable: boolean) {
  eduDriverSuite(
    name,
    async () => {
      const parts = await ensureParts();
      const machine = await Machine.create({ parts, memory, bytes: 512 * 2 ** 20 });
      machine.plug(make(), address);
      try {
        const vm = await machine.boot();
        const end = async () => machine[Symbol.asyncDispose]();
        return { vm, address: formatRequesterId(address), end };
      } catch (error) {
        await machine[Symbol.asyncDispose]();
        throw error;
      }
    },
    { fileBytes: 300_001, hammerSeconds: 5, resettable },
  );
}

// As QEMU's, it is a conventional function: neither function-level reset nor power management.
suite("sealbus's edu in sealed memory", 'sealed', () => new Edu(), false);
suite("sealbus's edu on PCI Express, in plain memory", 'plain', () => new ExpressEdu(), true);
