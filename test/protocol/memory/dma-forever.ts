/** A device's process that does DMA until it is killed; tells its parent where its memory is. */
import { keySlot } from '../../../src/keys/key-slot.ts';
import { gpa } from '../../../src/memory/guest-memory.ts';
import { sealedBench } from './sealed-bench.ts';

const bench = await sealedBench(1024 * 1024);
process.send?.({
  directory: bench.controller.directory,
  pid: bench.controller.pid,
  parent: bench.directory,
});
const bytes = new Uint8Array(3000);
// Bounded, should nobody kill it.
for (const end = Date.now() + 20_000; Date.now() < end; ) {
  bench.memory.write(gpa(1000), keySlot(1), bytes);
  bench.memory.read(gpa(2000), keySlot(1), bytes);
}
