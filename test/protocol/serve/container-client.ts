/**
 * A container in a VM's place: a process in namespaces of its own that drives a function over vfio-user, with a VM's
 * memory as its own. For container.test.ts. Prints one line of JSON.
 */
import { hostname } from 'node:os';
import { Vmm } from '../../../src/client/vmm.ts';
import { eduReads, eduWrites } from './edu-transfer.ts';

const [socket = '', file = '', bytes = '', secret = ''] = process.argv.slice(2);

await using vmm = await Vmm.connect(socket, { file, bytes: Number(bytes) });
const sent = vmm.memory.allocate(Buffer.from(secret));
const back = vmm.memory.allocate(sent.length);
await eduReads(vmm, sent.gpa, sent.length);
await eduWrites(vmm, back.gpa, sent.length);
const carried = Buffer.from(vmm.memory.read(back.gpa, back.length)).toString();
process.stdout.write(`${JSON.stringify({ pid: process.pid, hostname: hostname(), carried })}\n`);
