import { Nvme, type NvmeOptions } from '../../../../src/devices/nvme/nvme.ts';
import type { PciEndpoint } from '../../../../src/pci/endpoint.ts';
import { Bench } from '../../pci/bench.ts';

export const PAGE = 4096;

export const REGISTER = {
  cap: 0x00,
  vs: 0x08,
  intms: 0x0c,
  intmc: 0x10,
  cc: 0x14,
  csts: 0x1c,
  nssr: 0x20,
  aqa: 0x24,
  asq: 0x28,
  acq: 0x30,
  doorbells: 0x1000,
} as const;

export const CC = {
  enabled: 0x0046_0001,
  off: 0x0046_0000,
  shutdown: 1 << 14,
  abrupt: 2 << 14,
} as const;

export interface Entry {
  readonly opcode: number;
  readonly flags?: number;
  readonly nsid?: number;
  readonly prp1?: number | bigint;
  readonly prp2?: number | bigint;
  /** Dwords 10 to 15. */
  readonly dwords?: readonly number[];
}

export interface Completion {
  readonly cid: number;
  readonly sqid: number;
  readonly sqHead: number;
  /** Status code type and code: bits 10:0 of the status field, phase not counted. */
  readonly status: number;
  readonly more: boolean;
  readonly doNotRetry: boolean;
  readonly dword0: number;
}

interface Ring {
  readonly id: number;
  readonly base: number;
  readonly size: number;
  /** Of a submission queue the tail, of a completion queue the head. */
  at: number;
  phase: number;
}

/** What a host's driver does, in a memory of the test's: queues, entries, doorbells, completions. */
export class HostDriver {
  readonly nvme: Nvme;
  readonly link: Bench;
  readonly memory: Uint8Array;
  readonly view: DataView;
  readonly submission: Ring[] = [];
  readonly completion: Ring[] = [];
  readonly arrived = new Map<string, Completion>();
  /** Shadow and event index buffers, where it uses them. */
  shadow: { readonly doorbells: number; readonly events: number } | undefined;
  /** Doorbells that were rung by a write to the register. */
  rings = 0;
  #nextCid = 0;
  /** The next page that is nobody's. */
  #free: number;

  /** @param around what is plugged in in place of the controller */
  constructor(
    what: NvmeOptions | Nvme,
    memoryBytes = 4 * 2 ** 20,
    around: (nvme: Nvme) => PciEndpoint = (nvme) => nvme,
  ) {
    this.nvme = what instanceof Nvme ? what : new Nvme(what);
    this.link = new Bench(around(this.nvme), { memoryBytes, dmaMaxBytes: 2 ** 24 });
    this.memory = this.link.memory;
    this.view = new DataView(this.memory.buffer);
    this.#free = PAGE;
  }

  /** A piece of memory of whole pages. */
  pages(count: number): number {
    const at = this.#free;
    this.#free += count * PAGE;
    if (this.#free > this.memory.length) throw new Error('the test has used up its memory');
    return at;
  }

  enable(entries = 16): void {
    this.submission[0] ??= this.#ring(0, entries, 64);
    this.completion[0] ??= this.#ring(0, entries, 16);
    for (const ring of [this.submission[0], this.completion[0]]) {
      ring.at = 0;
      ring.phase = 1;
    }
    const { base, size } = this.completion[0];
    this.memory.fill(0, base, base + size * 16);
    this.submission.length = 1;
    this.completion.length = 1;
    this.link.write(REGISTER.aqa, ((entries - 1) << 16) | (entries - 1));
    this.link.write(REGISTER.asq, this.submission[0].base, 8);
    this.link.write(REGISTER.acq, base, 8);
    this.link.write(REGISTER.cc, CC.enabled);
  }

  get csts(): number {
    return this.link.read(REGISTER.csts);
  }

  /** Both queues of an identifier. @throws where one is refused */
  async createQueues(id: number, entries = 16): Promise<void> {
    const sq = this.#ring(id, entries, 64);
    const cq = this.#ring(id, entries, 16);
    this.completion[id] = cq;
    const made = await this.admin({
      opcode: 5,
      prp1: cq.base,
      dwords: [((entries - 1) << 16) | id, (id << 16) | 3],
    });
    if (made.status !== 0) throw new Error(`completion queue ${id}: 0x${made.status.toString(16)}`);
    this.submission[id] = sq;
    const also = await this.admin({
      opcode: 1,
      prp1: sq.base,
      dwords: [((entries - 1) << 16) | id, (id << 16) | 1],
    });
    if (also.status !== 0) throw new Error(`submission queue ${id}: 0x${also.status.toString(16)}`);
  }

  async useShadow(): Promise<Completion> {
    const doorbells = this.pages(1);
    const events = this.pages(1);
    const done = await this.admin({ opcode: 0x7c, prp1: doorbells, prp2: events });
    if (done.status === 0) this.shadow = { doorbells, events };
    return done;
  }

  /** Writes an entry at the tail; {@link ring} tells of it. @returns its command identifier */
  put(id: number, entry: Entry): number {
    const ring = this.submission[id] as Ring;
    const cid = this.#nextCid++ & 0xffff;
    const at = ring.base + ring.at * 64;
    this.memory.fill(0, at, at + 64);
    this.view.setUint32(at, entry.opcode | ((entry.flags ?? 0) << 8) | (cid << 16), true);
    this.view.setUint32(at + 4, entry.nsid ?? 0, true);
    this.view.setBigUint64(at + 24, BigInt(entry.prp1 ?? 0), true);
    this.view.setBigUint64(at + 32, BigInt(entry.prp2 ?? 0), true);
    for (const [n, dword] of (entry.dwords ?? []).entries()) {
      this.view.setUint32(at + 40 + 4 * n, dword >>> 0, true);
    }
    ring.at = (ring.at + 1) % ring.size;
    return cid;
  }

  ring(id: number): void {
    this.#tell(2 * id, (this.submission[id] as Ring).at);
  }

  /** One command from entry to completion. */
  async run(id: number, entry: Entry): Promise<Completion> {
    const cid = this.put(id, entry);
    this.ring(id);
    return await this.completed(id, cid);
  }

  admin(entry: Entry): Promise<Completion> {
    return this.run(0, entry);
  }

  /** @throws Error where it does not complete in 5000 turns of the event loop */
  async completed(id: number, cid: number): Promise<Completion> {
    const key = `${id}/${cid}`;
    for (let turn = 0; turn < 5000; turn++) {
      const completion = this.arrived.get(key);
      if (completion !== undefined) {
        this.arrived.delete(key);
        return completion;
      }
      await turns(1);
      this.reapAll();
    }
    throw new Error(`expected command ${cid} of queue ${id} to complete, got nothing`);
  }

  reapAll(): void {
    for (const ring of this.completion) if (ring !== undefined) this.reap(ring.id);
  }

  /** Takes what is new in a completion queue, and says so. @returns how many */
  reap(id: number, tell = true): number {
    const ring = this.completion[id] as Ring;
    let count = 0;
    for (;;) {
      const at = ring.base + ring.at * 16;
      const last = this.view.getUint32(at + 12, true);
      if (((last >>> 16) & 1) !== ring.phase) break;
      const sqid = this.view.getUint16(at + 10, true);
      const completion: Completion = {
        cid: last & 0xffff,
        sqid,
        sqHead: this.view.getUint16(at + 8, true),
        status: (last >>> 17) & 0x7ff,
        more: (last >>> 30) % 2 === 1,
        doNotRetry: last >>> 31 === 1,
        dword0: this.view.getUint32(at, true),
      };
      const key = `${sqid}/${completion.cid}`;
      if (this.arrived.has(key)) throw new Error(`command ${key} completed twice`);
      this.arrived.set(key, completion);
      count++;
      ring.at++;
      if (ring.at === ring.size) {
        ring.at = 0;
        ring.phase ^= 1;
      }
    }
    if (count > 0 && tell) this.#tell(2 * id + 1, ring.at);
    return count;
  }

  /** Linux's nvme_dbbuf_update_and_check_event, or a write to the register. */
  #tell(index: number, value: number): void {
    if (this.shadow !== undefined && index > 1) {
      const at = this.shadow.doorbells + 4 * index;
      const old = this.view.getUint32(at, true);
      this.view.setUint32(at, value, true);
      const event = this.view.getUint32(this.shadow.events + 4 * index, true);
      if (((value - event - 1) & 0xffff) >= ((value - old) & 0xffff)) return;
    }
    this.rings++;
    this.link.write(REGISTER.doorbells + 4 * index, value);
  }

  #ring(id: number, entries: number, bytes: number): Ring {
    const base = this.pages(Math.ceil((entries * bytes) / PAGE));
    return { id, base, size: entries, at: 0, phase: 1 };
  }
}

export async function turns(count: number): Promise<void> {
  for (let n = 0; n < count; n++) await new Promise<void>((done) => setImmediate(done));
}
