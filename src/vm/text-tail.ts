/** A console says its bytes one by one: more pieces than these are put together. */
const chunksMax = 1024;

/** The end of a text that grows without end: the last `maxBytes` or so of it, as lines. */
export class TextTail {
  readonly #maxBytes: number;
  readonly #chunks: Buffer[] = [];
  #bytes = 0;
  #droppedBytes = 0;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  push(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    while (this.#bytes - this.#chunks[0]!.length >= this.#maxBytes) {
      const dropped = this.#chunks.shift()!;
      this.#bytes -= dropped.length;
      this.#droppedBytes += dropped.length;
    }
    if (this.#chunks.length > chunksMax) this.#join();
  }

  /** Bytes that are no longer held. */
  get droppedBytes(): number {
    return this.#droppedBytes;
  }

  toString(): string {
    if (this.#chunks.length > 1) this.#join();
    return (this.#chunks[0] ?? Buffer.alloc(0)).toString('utf8').replaceAll('\r', '');
  }

  /** Into one piece, cut to the bound: a piece that grew with each join would never be dropped. */
  #join(): void {
    const all = Buffer.concat(this.#chunks);
    const kept = all.subarray(Math.max(0, all.length - this.#maxBytes));
    this.#chunks.splice(0, Infinity, kept);
    this.#droppedBytes += all.length - kept.length;
    this.#bytes = kept.length;
  }

  lastLines(count: number): string {
    return this.toString().trimEnd().split('\n').slice(-count).join('\n');
  }
}
