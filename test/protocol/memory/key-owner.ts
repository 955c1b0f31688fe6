/**
 * A device's process that is given keys on descriptors 3 and 4, and hands them to its memory controller, for
 * key-loading.test.ts to look into both from outside. Takes one command a message, answers each.
 */
import { inspect } from 'node:util';
import { writeHeapSnapshot } from 'node:v8';
import { keySlot } from '../../../src/keys/key-slot.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { gpa } from '../../../src/memory/guest-memory.ts';
import { sealedBench } from './sealed-bench.ts';

const bench = await sealedBench(1024 * 1024);
const slot = keySlot(2);
const page = new Uint8Array(4096).fill(7);

async function obey(command: string): Promise<unknown> {
  const { keys, memory, controller } = bench;
  switch (command.split(' ')[0]) {
    case 'load':
      await keys.load(slot, 3, { vm: vmId(1) });
      return await keys.activate(slot);
    case 'use':
      // Parts of blocks as well: they go through scratch memory of the engine.
      for (const at of [0, 4096, 8193]) memory.write(gpa(at), slot, page);
      memory.read(gpa(77), slot, page.subarray(0, 100));
      return 'used';
    case 'rotate':
      await keys.rotate(slot, { descriptor: 4 });
      return await keys.rotated(slot);
    case 'revoke':
      return await keys.revoke(slot);
    case 'snapshot':
      writeHeapSnapshot(command.split(' ')[1]);
      return inspect([bench, keys.list()], { showHidden: true, depth: 9 });
    case 'controller':
      return controller.pid;
    case 'end':
      await bench[Symbol.asyncDispose]();
      setImmediate(() => process.disconnect());
      return bench.failures;
  }
  throw new Error(`expected a command, got ${command}`);
}

process.on('message', (command: string) => {
  obey(command).then(
    (value) => process.send?.({ value }),
    (error: Error) => process.send?.({ value: error.message }),
  );
});
process.on('disconnect', () => process.exit());
process.send?.({ value: 'ready' });
