import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';

/** How a range of sealed RAM stands in the CPU's cache when a DMA comes. */
export type CacheState = 'dirty' | 'clean' | 'absent';

const LETTER = { dirty: 'd', clean: 'c', absent: 'a' } as const;
const COMMAND_BYTES = 20;
const ANSWER_BYTES = 8;
const PAGE_BYTES = 4096;

/** A process that maps a RAM file and plays the CPU (c/cpu_cache.c); one command at a time. */
export class CpuCache implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #command = Buffer.alloc(COMMAND_BYTES);
  readonly #lost: Promise<never>;
  #received = Buffer.alloc(0);
  #answer: ((bytes: Buffer) => void) | undefined;

  /** @throws Error where there is no C compiler */
  constructor(directory: string, ramPath: string, bytes: number) {
    const program = join(directory, 'cpu_cache');
    const source = join(import.meta.dirname, 'c', 'cpu_cache.c');
    execFileSync('cc', [
      ...['-std=gnu99', '-O2', '-D_GNU_SOURCE', '-Wall', '-Wextra'],
      ...['-o', program, source],
    ]);
    this.#child = spawn(program, [ramPath, String(bytes)], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#lost = once(this.#child, 'exit').then(([code, signal]) => {
      throw new Error(`expected the process that plays the CPU to go on, got ${signal ?? code}`);
    });
    this.#lost.catch(() => {}); // raced in put()
    this.#child.stdout?.on('data', (chunk: Buffer) => {
      this.#received = Buffer.concat([this.#received, chunk]);
      if (this.#received.length < ANSWER_BYTES) return;
      const answer = this.#received.subarray(0, ANSWER_BYTES);
      this.#received = this.#received.subarray(ANSWER_BYTES);
      this.#answer?.(answer);
    });
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /**
   * Puts whole pages into a state. Dirty ones have `value` in their first byte from then on.
   * @throws Error where they are not in it then: the figure would be another's.
   */
  async put(state: CacheState, offset: number, length: number, value = 0): Promise<void> {
    const command = this.#command;
    command.writeUInt32LE(LETTER[state].charCodeAt(0) | (value << 8), 0);
    command.writeBigUInt64LE(BigInt(offset), 4);
    command.writeBigUInt64LE(BigInt(length), 12);
    const answered = new Promise<Buffer>((resolve) => {
      this.#answer = resolve;
    });
    this.#child.stdin?.write(command);
    const resident = Number((await Promise.race([answered, this.#lost])).readBigUInt64LE());
    const expected = state === 'absent' ? 0 : length / PAGE_BYTES;
    if (resident !== expected) {
      throw new Error(`expected ${expected} pages of a range in the cache, got ${resident}`);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = once(this.#child, 'exit');
    this.#child.stdin?.end();
    await exited;
  }
}
