/**
 * A container in a VM's place: a process in namespaces of its own that drives a function over vfio-user, with a VM's
 * memory as its own. For container.test.ts. Prints one line of JSON.
 */
import { hostname } from 'node:os';
import { Vmm } from '../../../src/client/vmm.ts';

const [socket = '', file = '', bytes = '', secret = ''] = process.argv.slice(2);
const EDU_BUFFER = 0x40000;

await using vmm = await Vmm.connect(socket, { file, bytes: Number(bytes) });
const bar0 = vmm.bar(0);

/** edu's registers of DMA: source, destination, count, command (QEMU's docs/specs/edu.rst). */
async function transfer(from: number, to: number, length: number, command: number): Promise<void> {
  await bar0.write64(0x80, from);
  await bar0.write64(0x88, to);
  await bar0.write64(0x90, length);
  await bar0.write64(0x98, command);
  for (let tries = 0; ((await bar0.read32(0x98)) & 1) !== 0; tries++) {
    if (tries > 10_000) throw new Error('expected the transfer to end, got a busy device');
  }
}

const sent = vmm.memory.allocate(Buffer.from(secret));
const back = vmm.memory.allocate(sent.length);
await transfer(sent.gpa, EDU_BUFFER, sent.length, 1);
await transfer(EDU_BUFFER, back.gpa, sent.length, 3);
const carried = Buffer.from(vmm.memory.read(back.gpa, back.length)).toString();
process.stdout.write(`${JSON.stringify({ pid: process.pid, hostname: hostname(), carried })}\n`);
