/** The driver's suite on QEMU's own edu: the reference for ours. */
import { formatRequesterId, parseRequesterId } from '../../src/pci/requester-id.ts';
import { ensureParts } from '../../src/setup/ensure-parts.ts';
import { bootGuest } from '../../src/vm/guest.ts';
import { eduDriverSuite } from './edu-suite.ts';

const address = parseRequesterId('00:04.0');

eduDriverSuite(
  "QEMU's built-in edu",
  async () => {
    const vm = await bootGuest(await ensureParts(), {
      devices: [{ kind: 'builtin', driver: 'edu', address }],
    });
    return { vm, address: formatRequesterId(address), end: () => vm.stop() };
  },
  // It has neither a function-level reset nor power management.
  { fileBytes: 20_001, hammerSeconds: 3, resettable: false },
);
