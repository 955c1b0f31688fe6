import { relative } from 'node:path';

/** A path for people: as from the working directory, where it is beneath that. */
export function shownPath(path: string): string {
  const from = relative(process.cwd(), path);
  if (from === '') return '.';
  return from.startsWith('..') ? path : from;
}
