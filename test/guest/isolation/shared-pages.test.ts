/** A guest whose memory is made shared and private again under its feet, and which does not notice. */
import { createHash, randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Edu } from '../../../src/devices/edu/edu.ts';
import { Machine } from '../../../src/machine/machine.ts';
import { gpa } from '../../../src/memory/guest-memory.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { ensureParts } from '../../../src/setup/ensure-parts.ts';
import type { VirtualMachine } from '../../../src/vm/virtual-machine.ts';
import { noSealedRam } from '../../protocol/memory/sealed-bench.ts';

const MIB = 2 ** 20;
/** All RAM but the first part, of which firmware and legacy holes make several. */
const RANGE = { address: gpa(16 * MIB), bytes: 240 * MIB };

const missing = noSealedRam();
if (missing !== undefined) process.stderr.write(`${missing}\n`);

describe.skipIf(missing !== undefined)('a running guest', () => {
  let machine: Machine;
  let vm: VirtualMachine;

  beforeAll(async () => {
    const parts = await ensureParts();
    machine = await Machine.create({ parts, memory: 'sealed', bytes: 256 * MIB });
    machine.plug(new Edu(), parseRequesterId('00:05.0'));
    vm = await machine.boot();
  });
  afterAll(() => machine?.[Symbol.asyncDispose]());

  it('computes on while nearly all its memory is converted, and DRAM shows what is shared alone', async () => {
    const secret = randomBytes(64);
    const data = Buffer.concat(new Array(16_384).fill(secret));
    const digest = createHash('sha256').update(data).digest('hex');
    await vm.check(['sh', '-c', 'cat > /root/data'], { stdin: data });
    const inDram = async () => {
      await machine.sealed?.flush();
      return Buffer.from(machine.sealed?.dram() ?? []).includes(secret);
    };
    expect(await inDram()).toBe(false);

    let over = false;
    const computing = vm
      .check([
        ...['sh', '-ec'],
        'for i in $(seq 12); do cp /root/data /root/copy; sha256sum < /root/copy; rm /root/copy; done',
      ])
      .finally(() => {
        over = true;
      });
    let rounds = 0;
    for (; !over || rounds === 0; rounds++) {
      await machine.share(RANGE, { keep: true });
      expect(await inDram()).toBe(true);
      await machine.unshare(RANGE, { keep: true });
      expect(await inDram()).toBe(false);
    }
    const said = (await computing).trim().split('\n');
    expect(said).toEqual(new Array(12).fill(`${digest}  -`));
    const { convertedPages } = (await machine.sealed?.counters()) ?? { convertedPages: 0 };
    expect(convertedPages).toBe((2 * rounds * RANGE.bytes) / 4096);
    const complaints = await vm.check(['sh', '-c', "dmesg | grep -E 'BUG|Oops|Bad page' || true"]);
    expect(complaints).toBe('');
  });
});
