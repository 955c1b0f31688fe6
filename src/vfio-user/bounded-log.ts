/** At most `burst` messages a second; how many were left out is said with the next one. */
export class BoundedLog {
  readonly #write: (message: string) => void;
  readonly #burst: number;
  #second = 0;
  #count = 0;
  #left = 0;

  constructor(write: (message: string) => void, burst = 20) {
    this.#write = write;
    this.#burst = burst;
  }

  log(message: string): void {
    const second = Math.floor(performance.now() / 1000);
    if (second !== this.#second) {
      this.#second = second;
      this.#count = 0;
    }
    if (++this.#count > this.#burst) {
      this.#left++;
      return;
    }
    if (this.#left > 0) this.#write(`(${this.#left} messages left out)`);
    this.#left = 0;
    this.#write(message);
  }
}
