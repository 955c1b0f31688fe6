import {
  type BlockStorage,
  StorageError,
  type StorageRequest,
} from '../../../../src/storage/block-storage.ts';

/** A disk that is an array: requests end inside kick(), or where it is held, when the test says so. */
export class MemoryStorage implements BlockStorage {
  readonly path = 'memory';
  readonly discards = true;
  readonly content: Uint8Array;
  readonly readOnly: boolean;
  /** Requests stay until {@link release}. */
  held = false;
  /** The next requests fail so. */
  fails: { readonly errno: number } | undefined;
  /** All that was submitted: kind, offset, length, durable. */
  readonly log: string[] = [];
  kicks = 0;
  readonly #submitted: StorageRequest[] = [];
  readonly #underWay: StorageRequest[] = [];

  constructor(bytes: number, options: { readonly readOnly?: boolean } = {}) {
    this.content = new Uint8Array(bytes);
    this.readOnly = options.readOnly ?? false;
  }

  get bytes(): number {
    return this.content.length;
  }

  get underWay(): number {
    return this.#underWay.length;
  }

  submit(request: StorageRequest): void {
    const { kind, offset, length } = request;
    if (offset < 0 || offset + length > this.bytes) throw new RangeError(`outside: ${kind}`);
    if (this.readOnly && kind !== 'read' && kind !== 'flush') throw new RangeError('read-only');
    this.log.push(`${kind} ${offset} ${length}${request.durable ? ' durable' : ''}`);
    this.#submitted.push(request);
  }

  kick(): void {
    this.kicks++;
    const requests = this.#submitted.splice(0);
    if (this.held) this.#underWay.push(...requests);
    else for (const request of requests) this.#do(request);
  }

  /** Ends what is under way, in any order: here the last first. */
  release(): void {
    for (const request of this.#underWay.splice(0).reverse()) this.#do(request);
  }

  async close(): Promise<void> {}

  #do(request: StorageRequest): void {
    const { kind, offset, length, bytes } = request;
    if (this.fails !== undefined) {
      const { errno } = this.fails;
      request.done(new StorageError(kind, `expected no ${kind}`, errno));
      return;
    }
    if (kind === 'read') bytes?.set(this.content.subarray(offset, offset + length));
    if (kind === 'write' && bytes !== undefined) this.content.set(bytes, offset);
    if (kind === 'write-zeroes' || kind === 'discard')
      this.content.fill(0, offset, offset + length);
    request.done(undefined);
  }
}
