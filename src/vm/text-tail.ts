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
  }

  /** Bytes that are no longer held. */
  get droppedBytes(): number {
    return this.#droppedBytes;
  }

  toString(): string {
    if (this.#chunks.length > 1) this.#chunks.splice(0, Infinity, Buffer.concat(this.#chunks));
    return (this.#chunks[0] ?? Buffer.alloc(0)).toString('utf8').replaceAll('\r', '');
  }

  lastLines(count: number): string {
    return this.toString().trimEnd().split('\n').slice(-count).join('\n');
  }
}
