/**
 * The blocks of a page that say what to do. The word behind a block's language says what it is:
 *
 * - `sh`: lines after `$ ` are run, the lines below each are what it says; `sh fails`: the last one fails
 * - `sh TERMINAL`: the same in a terminal that keeps its variables and what runs in it; after `/ # ` are lines for a
 *   guest's shell, `^C` is that key; `sh TERMINAL stays`: the last one goes on running
 * - `ts FILE`: the file's content; `ts shown FILE`: a part of what is there already
 * - `diff FILE`: lines of it that are replaced
 */

export interface Command {
  readonly line: string;
  /**
   * What it prints: `…` in a line is anything in it, a line of `…` is any lines. A row of a hex dump with bytes that
   * are no text stands for any noise.
   */
  readonly output: string;
}

export interface Manner {
  /** Its name; undefined where each line has a shell of its own. */
  readonly terminal: string | undefined;
  readonly fails: boolean;
  readonly stays: boolean;
}

export type GuideBlock = { readonly section: string; readonly lineNumber: number } & (
  | ({ readonly kind: 'sh'; readonly commands: readonly Command[] } & Manner)
  | { readonly kind: 'file' | 'shown'; readonly file: string; readonly content: string }
  | {
      readonly kind: 'diff';
      readonly file: string;
      readonly before: string;
      readonly after: string;
    }
);

/** @throws Error where a block's first line is none of these */
export function guideBlocks(page: string): GuideBlock[] {
  const blocks: GuideBlock[] = [];
  let section = '';
  const lines = page.split('\n');
  for (let at = 0; at < lines.length; at++) {
    const line = lines[at] ?? '';
    section = /^#+ (.*)$/.exec(line)?.[1] ?? section;
    if (!line.startsWith('```')) continue;
    const end = lines.indexOf('```', at + 1);
    if (end < 0) throw new Error(`expected an end to the block of line ${at + 1}, got none`);
    const body = lines.slice(at + 1, end);
    const place = { section, lineNumber: at + 1 };
    blocks.push({ ...place, ...blockOf(line.slice(3), body, at + 1) });
    at = end;
  }
  return blocks;
}

function blockOf(words: string, body: readonly string[], lineNumber: number) {
  const [language = '', ...rest] = words.split(' ');
  const [first = '', second = ''] = rest;
  if (language === 'sh') {
    const manner = { fails: rest.includes('fails'), stays: rest.includes('stays') };
    const [terminal] = rest.filter((word) => word !== 'fails' && word !== 'stays');
    return { kind: 'sh', commands: commandsOf(body), terminal, ...manner } as const;
  }
  const content = `${body.join('\n')}\n`;
  if (language === 'ts' && first === 'shown') {
    return { kind: 'shown', file: second, content } as const;
  }
  if (language === 'ts' && first !== '') return { kind: 'file', file: first, content } as const;
  if (language === 'diff' && first !== '') {
    const side = (without: string) =>
      body
        .filter((line) => !line.startsWith(without))
        .map((line) => `${line.slice(1)}\n`)
        .join('');
    return { kind: 'diff', file: first, before: side('+'), after: side('-') } as const;
  }
  throw new Error(`expected sh, ts FILE or diff FILE at line ${lineNumber}, got ${words}`);
}

function commandsOf(body: readonly string[]): Command[] {
  const commands: { line: string; output: string[] }[] = [];
  for (const line of body) {
    const [, typed] = /^(?:\$|\/ #) (.*)$/.exec(line) ?? /^(\^C)$/.exec(line) ?? [];
    if (typed !== undefined) commands.push({ line: typed, output: [] });
    else commands.at(-1)?.output.push(line);
  }
  return commands.map(({ line, output }) => ({ line, output: output.join('\n') }));
}

/** A row of a hex dump, as od and hexdump print it: what stands before its bytes, these, the same as text. */
const DUMP_ROW = /^(.*?)((?: {1,2}[0-9a-f]{2}){8,}) +[>|].*[<|]$/;
const NO_TEXT = '(?!(?: +(?:[2-6][0-9a-f]|7[0-9a-e]|0a))+ +[>|])';

/** What a command's output has to match: see {@link Command}. */
export function outputPattern(expected: string): RegExp {
  const lines = expected.split('\n').map((line, index, { length }) => {
    const end = index === length - 1 ? '' : '\n';
    if (line === '…') return end === '' ? '[^]*' : '(?:.*\n)*?';
    const [, before = '', bytes = ''] = DUMP_ROW.exec(line) ?? [];
    if (new RegExp(`^${NO_TEXT}`).test(`${bytes}  |`) && bytes !== '') {
      const row = `(?: {1,2}[0-9a-f]{2}){${bytes.trim().split(/ +/).length}} +[>|].*[<|]`;
      return `${escaped(before)}${NO_TEXT}${row}${end}`;
    }
    return line.split('…').map(escaped).join('.*') + end;
  });
  return new RegExp(`^${lines.join('')}$`);
}

function escaped(text: string): string {
  return text.replaceAll(/[\\^$.*+?()[\]{}|]/g, '\\$&');
}
