/** What a compiler, make and modpost said, as it concerns the author of the source. */

/** A line of a source, counted from 1, as the compiler names it. */
export interface SourcePlace {
  readonly file: string;
  readonly line: number;
  readonly column?: number;
}

/** What make and the kernel's build say of their own work. */
const ownWork =
  /^\s+(CC|LD|AR|AS|MODPOST|BTF|OBJTOOL|HOSTCC)\b|^make(\[\d+\])?: |^Skipping BTF generation|^warning: the compiler differs|^ {2}(The kernel was built by|You are using): /;

/** The messages, without what make says of its own work. */
export function messagesOf(said: string): string {
  return said
    .split('\n')
    .filter((line) => !ownWork.test(line))
    .join('\n')
    .trim();
}

/** How many lines are such a message; an `ERROR:` of modpost is an error as well. */
export function countMessages(messages: string, kind: 'error' | 'warning'): number {
  const line = new RegExp(`\\b(fatal )?${kind}:`, 'i');
  return messages.split('\n').filter((one) => line.test(one)).length;
}

/** Where the first error is; undefined where it is at no line, as of a symbol that is missing. */
export function firstErrorPlace(messages: string): SourcePlace | undefined {
  const match = /^(\S[^:\n]*):(\d+):(?:(\d+):)? (?:fatal )?error:/m.exec(messages);
  if (match === null) return undefined;
  const [, file = '', line, column] = match;
  return { file, line: Number(line), ...(column === undefined ? {} : { column: Number(column) }) };
}
