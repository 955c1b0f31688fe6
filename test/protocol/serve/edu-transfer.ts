import type { Vmm } from '../../../src/client/vmm.ts';

const BUFFER = 0x40000;
const READ = 1;
const WRITE = 3;

/** Has an edu read bytes of memory into its buffer (QEMU's docs/specs/edu.rst), and waits for it. */
export function eduReads(vmm: Vmm, gpa: number, length: number): Promise<void> {
  return transfer(vmm, gpa, BUFFER, length, READ);
}

/** Has an edu write bytes of its buffer to memory. */
export function eduWrites(vmm: Vmm, gpa: number, length: number): Promise<void> {
  return transfer(vmm, BUFFER, gpa, length, WRITE);
}

async function transfer(
  vmm: Vmm,
  from: number,
  to: number,
  length: number,
  command: number,
): Promise<void> {
  const bar0 = vmm.bar(0);
  for (const [n, value] of [from, to, length, command].entries()) {
    await bar0.write64(0x80 + n * 8, value);
  }
  for (let tries = 0; ((await bar0.read32(0x98)) & 1) !== 0; tries++) {
    if (tries > 10_000) throw new Error('expected the transfer to end, got a busy device');
  }
}
