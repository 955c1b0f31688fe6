import { closeSync, openSync, writeSync } from 'node:fs';
import { basename } from 'node:path';
import { type PerfettoSource, perfettoJson } from '../trace/perfetto.ts';
import { openTrace } from '../trace/read-trace.ts';

/** Reads traces and hands out the text of a Perfetto trace of them. @throws Error as the reader */
export function* perfettoOf(paths: readonly string[]): Generator<string, void, void> {
  const sources = paths.map((path): PerfettoSource => {
    const file = openTrace(path);
    return { name: basename(path), header: file.header, events: file.events() };
  });
  yield* perfettoJson(sources);
}

const PIECE_CHARACTERS = 256 * 1024;

/** Pieces of text put together to ones worth a write. */
export function* gathered(pieces: Iterable<string>): Generator<string, void, void> {
  let text = '';
  for (const piece of pieces) {
    text += piece;
    if (text.length < PIECE_CHARACTERS) continue;
    yield text;
    text = '';
  }
  yield text;
}

export function writePieces(path: string, pieces: Iterable<string>): void {
  const file = openSync(path, 'w', 0o600);
  try {
    for (const text of gathered(pieces)) {
      const bytes = Buffer.from(text);
      for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done);
    }
  } finally {
    closeSync(file);
  }
}
