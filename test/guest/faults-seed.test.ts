/** The same seed gives the same faults, run after run: the same work of a driver, in two guests. */
import { randomBytes } from 'node:crypto';
import { expect, it } from 'vitest';
import { Edu } from '../../src/devices/edu/edu.ts';
import { FaultPlan, type Strike } from '../../src/faults/index.ts';
import { Machine } from '../../src/machine/machine.ts';
import { parseRequesterId } from '../../src/pci/requester-id.ts';
import { ensureParts } from '../../src/setup/ensure-parts.ts';

const FACTORIALS = 40;
const FILE_BYTES = 10 * 4096;

/** What a guest's work with an edu meets: exit codes, and where which fault struck. */
async function run(seed: number): Promise<{ codes: string; strikes: readonly Strike[] }> {
  const plan = new FaultPlan({ seed });
  await using machine = await Machine.create({
    ...{ parts: await ensureParts(), memory: 'plain', bytes: 512 * 2 ** 20, log: () => undefined },
    instruments: [plan],
  });
  machine.plug(new Edu({ dmaMask: (1n << 64n) - 1n }), parseRequesterId('00:05.0'));
  plan.arm('interrupt.lose', { rate: 0.1 });
  plan.arm('interrupt.double', { rate: 0.1 });
  plan.arm('completion.delay', { rate: 0.1, ms: 3 });
  plan.arm('dma.refuse', { rate: 0.2 });
  plan.arm('register.stuck', { rate: 0.002, register: 'liveness' });
  const vm = await machine.boot({ cpus: 2 });
  await vm.insmod('sealbus_edu', { timeout_ms: '400' });
  await vm.writeFile('/tmp/sent', randomBytes(FILE_BYTES));
  const factorial = '/sys/bus/pci/devices/0000:00:05.0/factorial';
  const codes = await vm.check([
    ...['sh', '-c'],
    `for n in $(seq ${FACTORIALS}); do echo $n 2>/dev/null > ${factorial}; printf $?; done;` +
      'edu-copy /dev/edu0 /tmp/sent /tmp/came >/dev/null 2>&1; printf $?',
  ]);
  return { codes, strikes: plan.strikes };
}

it('the same work meets the same faults in another guest', async () => {
  const first = await run(0x5eed);
  const kinds = new Set(first.strikes.map(({ fault }) => fault));
  expect(kinds.size).toBeGreaterThanOrEqual(4);
  expect(first.codes).toMatch(/^(?=.*1)[01]+$/);
  expect(await run(0x5eed)).toEqual(first);
});
