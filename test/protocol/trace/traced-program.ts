/**
 * A program that knows nothing of traces: it serves the adder on so many machines, one after another,
 * sums three bytes on each, and ends as it is told. `traced-program.ts MACHINES [exit N | kill | wait]`;
 * the last three leave the last machine as it is.
 */
import { Adder } from '../../../examples/adder/adder.ts';
import { Vmm } from '../../../src/client/index.ts';

const [machines = '1', end, code] = process.argv.slice(2);
let sum = 0;
for (let n = Number(machines); n > 0; n--) {
  const vmm = await Vmm.host(new Adder(), { log: () => {} });
  const buffer = vmm.memory.allocate(Uint8Array.of(1, 2, 3));
  await vmm.bar0.write('source', buffer.gpa);
  await vmm.bar0.write('length', buffer.length);
  await vmm.bar0.write('control', { go: true });
  await vmm.interrupt(0).next();
  sum += Number(await vmm.bar0.read('sum'));
  if (n > 1 || end === undefined) await vmm[Symbol.asyncDispose]();
}
process.stdout.write(`${sum}\n`);
if (end === 'exit') process.exit(Number(code));
// Not before what waits to be written has been.
await new Promise((resolve) => setTimeout(resolve, 1000));
if (end === 'kill') process.kill(process.pid, 'SIGKILL');
if (end === 'wait') {
  process.stdout.write('waiting\n');
  setTimeout(() => {}, 600_000);
}
