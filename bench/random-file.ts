import { randomFillSync } from 'node:crypto';
import { closeSync, openSync, writeSync } from 'node:fs';

const PIECE_BYTES = 1 << 20;

/** A file of random bytes, every block of it there. @param bytes whole MiB */
export function fillRandomly(path: string, bytes: number): void {
  const fd = openSync(path, 'w', 0o600);
  try {
    const piece = Buffer.alloc(PIECE_BYTES);
    for (let offset = 0; offset < bytes; offset += PIECE_BYTES) {
      writeSync(fd, randomFillSync(piece), 0, PIECE_BYTES, offset);
    }
  } finally {
    closeSync(fd);
  }
}
