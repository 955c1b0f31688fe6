import type { StorageRequest } from './block-storage.ts';

/** Requests that wait, first in first out, in a ring that grows to its bound and then stays. */
export class RequestQueue {
  readonly #max: number;
  #ring: (StorageRequest | undefined)[];
  #first = 0;
  #length = 0;

  /** @param max a power of two of at least 64 */
  constructor(max: number) {
    this.#max = max;
    this.#ring = new Array(64);
  }

  get length(): number {
    return this.#length;
  }

  /** @returns false where the queue is full */
  push(request: StorageRequest): boolean {
    if (this.#length === this.#ring.length) {
      if (this.#length === this.#max) return false;
      const grown: (StorageRequest | undefined)[] = new Array(this.#length * 2);
      for (let index = 0; index < this.#length; index++) {
        grown[index] = this.#ring[(this.#first + index) & (this.#ring.length - 1)];
      }
      this.#ring = grown;
      this.#first = 0;
    }
    this.#ring[(this.#first + this.#length) & (this.#ring.length - 1)] = request;
    this.#length++;
    return true;
  }

  shift(): StorageRequest | undefined {
    if (this.#length === 0) return undefined;
    const request = this.#ring[this.#first];
    this.#ring[this.#first] = undefined;
    this.#first = (this.#first + 1) & (this.#ring.length - 1);
    this.#length--;
    return request;
  }
}
