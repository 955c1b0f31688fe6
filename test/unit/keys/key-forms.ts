/** A piece of a key as a file, a snapshot or a print could have it: as it is, as digits, as JavaScript shows bytes. */
export function keyForms(part: Uint8Array): Buffer[] {
  const bytes = Buffer.from(part);
  const hex = bytes.toString('hex');
  const texts = [hex, hex.toUpperCase(), bytes.toString('base64'), part.join(','), part.join(', ')];
  return [bytes, ...texts.map((text) => Buffer.from(text))];
}
