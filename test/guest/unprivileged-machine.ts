/**
 * Boots a guest in sealed memory as whoever runs this, and carries bytes through its edu: a process
 * for run-without-fuse.test.ts. Parts and guest come planned, on stdin. Prints one line of JSON.
 */
import { readFileSync } from 'node:fs';
import { Edu } from '../../src/devices/edu/edu.ts';
import { Machine } from '../../src/machine/machine.ts';
import { parseRequesterId } from '../../src/pci/requester-id.ts';
import type { Parts } from '../../src/setup/parts.ts';
import type { GuestPlan } from '../../src/vm/guest.ts';
import { VirtualMachine } from '../../src/vm/virtual-machine.ts';

const { parts, description } = JSON.parse(readFileSync(0, 'utf8')) as {
  parts: Parts;
  description: GuestPlan['description'];
};
await using machine = await Machine.create({
  ...{ parts, memory: 'sealed', bytes: description.memory.bytes },
});
const address = parseRequesterId('00:04.0');
const { server } = machine.plug(new Edu(), address);
await using vm = await VirtualMachine.start({
  qemu: parts.qemu,
  description: {
    ...description,
    memory: machine.guestRam,
    devices: [{ kind: 'vfio-user', address, socket: server.socketPath }],
  },
});
await vm.insmod('sealbus_edu');
await vm.check(['sh', '-c', 'printf "carried" | dd of=/dev/edu0 conv=notrunc']);
const { stdout } = await vm.exec(['dd', 'if=/dev/edu0', 'bs=7', 'count=1']);
await machine.sealed?.flush();
const { dramPages } = (await machine.sealed?.counters()) ?? { dramPages: 0 };
process.stdout.write(
  `${JSON.stringify({
    ...{ uid: process.getuid?.(), mode: machine.mode, carried: `${stdout}`, dramPages },
    ...{ mountedBy: machine.controller?.mountedBy, faults: machine.iommu.faults.total },
  })}\n`,
);
