/** Bytes of a stream, taken apart at their line ends, of which none may come later than so many bytes. */
export class LineSplitter {
  readonly #bytesMax: number;
  #waiting: Buffer = Buffer.alloc(0);

  /** @param bytesMax of a line, its end included */
  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** Takes a copy. */
  push(bytes: Uint8Array): void {
    this.#waiting = Buffer.concat([this.#waiting, bytes]);
  }

  /**
   * The next whole line, without its end; undefined where none is there yet.
   * @throws RangeError where it is longer than lines may be
   */
  next(): string | undefined {
    const end = this.#waiting.indexOf(0x0a);
    if ((end < 0 ? this.#waiting.length : end + 1) > this.#bytesMax) {
      throw new RangeError(`expected lines of at most ${this.#bytesMax} bytes, got a longer one`);
    }
    if (end < 0) return undefined;
    const line = this.#waiting.toString('utf8', 0, end);
    this.#waiting = this.#waiting.subarray(end + 1);
    return line;
  }
}
