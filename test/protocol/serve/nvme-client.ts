import { setTimeout as sleep } from 'node:timers/promises';
import type { GuestBuffer } from '../../../src/client/guest-buffer.ts';
import type { Vmm } from '../../../src/client/vmm.ts';

const CC = 0x14;
const CSTS = 0x1c;
const AQA = 0x24;
const ASQ = 0x28;
const ACQ = 0x30;
const DOORBELLS = 0x1000;
const ENTRIES = 8;
const PAGE = 4096;

interface Entry {
  readonly opcode: number;
  readonly nsid?: number;
  readonly prp1?: number;
  /** From dword 10 on. */
  readonly dwords?: readonly number[];
}

interface Pair {
  readonly submission: GuestBuffer;
  readonly completion: GuestBuffer;
  sent: number;
}

/** A driver of an NVMe function that waits for one command after the other, by looking (NVMe 1.4 §7.2). */
export class NvmeClient {
  readonly #vmm: Vmm;
  readonly #pairs: Pair[] = [];

  /** Enables the controller, with one I/O queue. */
  static async probe(vmm: Vmm): Promise<NvmeClient> {
    const client = new NvmeClient(vmm);
    const { bar0 } = vmm;
    const { submission, completion } = client.#pair();
    await bar0.write32(AQA, ((ENTRIES - 1) << 16) | (ENTRIES - 1));
    await bar0.write64(ASQ, submission.gpa);
    await bar0.write64(ACQ, completion.gpa);
    await bar0.write32(CC, 0x0046_0001);
    await until(async () => ((await bar0.read32(CSTS)) & 1) === 1);
    const io = client.#pair();
    const size = (ENTRIES - 1) << 16;
    await client.#done(0, { opcode: 5, prp1: io.completion.gpa, dwords: [size | 1, 1] });
    await client.#done(0, {
      opcode: 1,
      prp1: io.submission.gpa,
      dwords: [size | 1, (1 << 16) | 1],
    });
    return client;
  }

  private constructor(vmm: Vmm) {
    this.#vmm = vmm;
  }

  /** Serial number, controller ID and active namespaces. */
  async identity() {
    const page = this.#vmm.memory.allocate(PAGE);
    await this.#done(0, { opcode: 6, prp1: page.gpa, dwords: [1] });
    const serial = Buffer.from(page.bytes(4, 20)).toString('latin1').trimEnd();
    const controller = page.read16(78);
    await this.#done(0, { opcode: 6, prp1: page.gpa, dwords: [2] });
    const nsids = Array.from({ length: 8 }, (_, at) => page.read32(4 * at)).filter((n) => n !== 0);
    page.free();
    return { serial, controller, nsids };
  }

  /** Of a feature, by Get Features. */
  async feature(id: number): Promise<number> {
    return (await this.#done(0, { opcode: 0xa, dwords: [id] })).dword0;
  }

  async setFeature(id: number, value: number): Promise<void> {
    await this.#done(0, { opcode: 9, dwords: [id, value] });
  }

  /** The first block of a namespace, into a buffer of guest memory that stays. */
  async read(nsid: number): Promise<GuestBuffer> {
    const page = this.#vmm.memory.allocate(PAGE);
    await this.#done(1, { opcode: 2, nsid, prp1: page.gpa, dwords: [0, 0, 0] });
    return page;
  }

  async write(nsid: number, bytes: Uint8Array): Promise<void> {
    const page = this.#vmm.memory.allocate(PAGE);
    page.write(bytes);
    await this.#done(1, { opcode: 1, nsid, prp1: page.gpa, dwords: [0, 0, 0] });
  }

  /** Puts a read into the I/O queue and rings, without waiting. */
  async ring(nsid: number): Promise<void> {
    const page = this.#vmm.memory.allocate(PAGE);
    await this.#put(1, { opcode: 2, nsid, prp1: page.gpa, dwords: [0, 0, 0] });
  }

  #pair(): Pair {
    const { memory } = this.#vmm;
    const pair = { submission: memory.allocate(PAGE), completion: memory.allocate(PAGE), sent: 0 };
    for (const queue of [pair.submission, pair.completion]) queue.fill(0);
    this.#pairs.push(pair);
    return pair;
  }

  async #put(queue: number, { opcode, nsid = 0, prp1 = 0, dwords = [] }: Entry): Promise<number> {
    const pair = this.#pairs[queue] as Pair;
    const { submission } = pair;
    const number = pair.sent++;
    const at = (number % ENTRIES) * 64;
    submission.write(new Uint8Array(64), at);
    submission.write32(at, opcode | ((number & 0xffff) << 16));
    submission.write32(at + 4, nsid);
    submission.write64(at + 24, prp1);
    for (const [n, dword] of dwords.entries()) submission.write32(at + 40 + 4 * n, dword >>> 0);
    await this.#vmm.bar0.write32(DOORBELLS + 8 * queue, pair.sent % ENTRIES);
    return number;
  }

  async #done(queue: number, entry: Entry): Promise<{ readonly dword0: number }> {
    const number = await this.#put(queue, entry);
    const { completion } = this.#pairs[queue] as Pair;
    const at = (number % ENTRIES) * 16;
    const phase = 1 - (Math.floor(number / ENTRIES) & 1);
    await until(() => ((completion.read32(at + 12) >>> 16) & 1) === phase);
    const status = completion.read32(at + 12) >>> 17;
    if (status !== 0) throw new Error(`opcode ${entry.opcode}: status 0x${status.toString(16)}`);
    await this.#vmm.bar0.write32(DOORBELLS + 8 * queue + 4, (number + 1) % ENTRIES);
    return { dword0: completion.read32(at) };
  }
}

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  for (let tries = 0; !(await holds()); tries++) {
    if (tries > 5000) throw new Error('expected the controller to answer within 5 s');
    await sleep(1);
  }
}
