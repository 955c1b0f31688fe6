/**
 * A process that holds a key, for key-wipe.test.ts to look into from outside. It takes one command a
 * line on stdin and answers each with a line; the key comes on descriptor 3, one to rotate to on 4.
 */
import { createInterface } from 'node:readline';
import { inspect } from 'node:util';
import { writeHeapSnapshot } from 'node:v8';
import { keySlot } from '../../../src/keys/key-slot.ts';
import { KeyTable } from '../../../src/keys/key-table.ts';
import { isProcessProtected, protectProcess } from '../../../src/keys/protect-process.ts';
import type { SecretMemoryKind } from '../../../src/keys/secret-memory.ts';
import { vmId } from '../../../src/keys/vm-id.ts';

const table = new KeyTable({ memory: process.argv[2] as SecretMemoryKind });
const slot = keySlot(70);
const page = new Uint8Array(4096);

function obey(command: string): string {
  const [verb, path] = command.split(' ');
  switch (verb) {
    case 'load':
      table.load(slot, 3, { vm: vmId(1) });
      return 'ok';
    case 'use':
      table.activate(slot);
      // Every path that works with the key: whole pages, blocks inside one, parts of blocks.
      table.cipher(slot).encrypt(page, page, 1, 0, 4096);
      table.cipher(slot).decrypt(page, page.subarray(160, 320), 1, 160, 160);
      table.cipher(slot).encrypt(Uint8Array.of(1, 2, 3), page, 1, 1001, 3);
      return 'ok';
    case 'snapshot':
      writeHeapSnapshot(path);
      return 'ok';
    case 'print':
      return inspect(table, { showHidden: true, depth: 9 }) + JSON.stringify(table) + String(table);
    case 'rotate':
      table.rotate(slot, { fd: 4 });
      table.cipher(slot).encrypt(page, page, 1, 0, 4096);
      return 'ok';
    case 'finish':
    case 'revoke':
    case 'destroy':
      table[verb](slot);
      return 'ok';
    case 'protect':
      protectProcess();
      return 'ok';
    case 'protected':
      return String(isProcessProtected());
    default:
      return `expected a command, got ${command}`;
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  try {
    console.log(obey(line));
  } catch (error) {
    console.log(inspect(error));
  }
}
