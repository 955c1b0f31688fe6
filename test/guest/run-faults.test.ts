/** `sealbus run --fault` from a shell: what the guest meets, what stderr says, and that the seed says which. */
import { afterAll, afterEach, expect, it } from 'vitest';
import { Edu } from '../../src/devices/edu/edu.ts';
import { FaultPlan, parseFault } from '../../src/faults/index.ts';
import { parseRequesterId } from '../../src/pci/requester-id.ts';
import { RunPlace } from '../protocol/cli/sealbus.ts';
import { Bench } from '../unit/pci/bench.ts';

const place = new RunPlace();
afterEach(() => {
  expect(place.left).toEqual([]);
});
afterAll(() => place[Symbol.dispose]());

const READS = 24;
const FAULT = 'register.stuck:register=identification,value=7,rate=0.1';

/** What the same seed does to the same reads in this process, without a guest. */
function readsHere(seed: number): string[] {
  const plan = new FaultPlan({ seed });
  const link = new Bench(plan.around(new Edu(), parseRequesterId('00:04.0')));
  const { name, options } = parseFault(FAULT);
  plan.arm(name, options);
  return Array.from({ length: READS }, () => `0x${link.read(0).toString(16).padStart(8, '0')}`);
}

it('strikes by the seed as anywhere, and tells so in a line each', async () => {
  const wanted = readsHere(5);
  expect(new Set(wanted)).toEqual(new Set(['0x010000ed', '0x00000007']));
  const reads = Array.from({ length: READS }, () => '0 4').join(' , ');
  const { code, stdout, stderr } = await place.run([
    ...['run', '--memory', 'plain', '--fault', FAULT, '--fault-seed', '0x5', '--'],
    ...['sh', '-c', `pcimem 0000:00:04.0 0 ${reads}`],
  ]);
  expect(code).toBe(0);
  expect(`${stdout}`.trim().split('\n')).toEqual(wanted);
  expect(stderr).toMatch(
    /^sealbus: fault: register\.stuck at 0000:00:04\.0: identification, bits 0xffffffff$/m,
  );
  expect(stderr).toMatch(
    /^sealbus: faults that struck: register\.stuck 1 \(--fault-seed 0x00000005 repeats them\)$/m,
  );
});
