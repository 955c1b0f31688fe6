import { closeSync, openSync, readFileSync, readSync } from 'node:fs';

/**
 * How often each needle (of at most 64 bytes) occurs in what a process can write and this one can read of its
 * memory.
 */
export function countInMemory(pid: number, needles: readonly Uint8Array[]): number[] {
  const counts = needles.map(() => 0);
  const memory = openSync(`/proc/${pid}/mem`, 'r');
  try {
    for (const line of readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')) {
      const match = /^([0-9a-f]+)-([0-9a-f]+) rw/.exec(line);
      if (!match) continue;
      const begin = Number.parseInt(match[1]!, 16);
      const end = Number.parseInt(match[2]!, 16);
      const chunk = Buffer.alloc(Math.min(end - begin, 2 ** 22) + 64);
      for (let at = begin; at < end; at += chunk.length - 64) {
        let got: number;
        try {
          got = readSync(memory, chunk, 0, Math.min(chunk.length, end - at), at);
        } catch {
          break; // Not to be read from outside: secret memory, a guard page.
        }
        for (const [index, needle] of needles.entries()) {
          for (let from = 0; ; counts[index]! += 1) {
            const found = chunk.subarray(0, got).indexOf(needle, from);
            if (found < 0) break;
            from = found + 1;
          }
        }
      }
    }
  } finally {
    closeSync(memory);
  }
  return counts;
}
