/**
 * How commands call a VM or a subsystem: a-z, 0-9 and -, beginning with a letter.
 * @param most characters
 * @throws SyntaxError where it is no such name
 */
export function parseName(text: string, most: number): string {
  if (/^[a-z][a-z0-9-]*$/.test(text) && text.length <= most) return text;
  throw new SyntaxError(
    `expected a name of 1 to ${most} of a-z, 0-9 and -, a letter first, got ${JSON.stringify(text)}`,
  );
}
