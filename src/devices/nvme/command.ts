/** A submission queue entry, NVMe 1.4 §4.2, Figure 104: a view of its 64 bytes. */
export class Command {
  static readonly bytes = 64;
  readonly #view: DataView;

  /** @param entry 64 bytes that do not change while the command is worked on. */
  constructor(entry: Uint8Array) {
    if (entry.length !== Command.bytes) {
      throw new RangeError(`expected 64 bytes of a submission queue entry, got ${entry.length}`);
    }
    this.#view = new DataView(entry.buffer, entry.byteOffset, entry.length);
  }

  get opcode(): number {
    return this.#view.getUint8(0);
  }
  /** 0: not fused. */
  get fused(): number {
    return this.#view.getUint8(1) & 3;
  }
  /** PRP or SGL for data transfer: 0 is PRP, 1 and 2 are SGL, 3 is reserved. */
  get psdt(): number {
    return this.#view.getUint8(1) >>> 6;
  }
  get cid(): number {
    return this.#view.getUint16(2, true);
  }
  get nsid(): number {
    return this.#view.getUint32(4, true);
  }
  get metadataPointer(): bigint {
    return this.#view.getBigUint64(16, true);
  }
  get prp1(): bigint {
    return this.#view.getBigUint64(24, true);
  }
  get prp2(): bigint {
    return this.#view.getBigUint64(32, true);
  }
  /** `n` from 10 to 15. */
  dword(n: 10 | 11 | 12 | 13 | 14 | 15): number {
    return this.#view.getUint32(4 * n, true);
  }
  get startingLba(): bigint {
    return this.#view.getBigUint64(40, true);
  }
}
