/** What people should see of a run that goes on: on stderr, once in a worker. */
const said = new Set<string>();

export function warnOnce(words: string): void {
  if (said.has(words)) return;
  said.add(words);
  process.stderr.write(`sealbus: ${words}\n`);
}
