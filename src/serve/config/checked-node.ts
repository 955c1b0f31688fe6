import {
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  type ParsedNode,
  parseDocument,
  type Scalar,
} from 'yaml';
import { CONFIG_ERRORS_MAX, ConfigError, type ConfigPlace } from './config-place.ts';

/** What is longer is no configuration of ours. */
const TEXT_BYTES_MAX = 1024 * 1024;

/** The text that nodes are of, and what was found wrong with it. */
interface Source {
  readonly file: string;
  readonly lines: LineCounter;
  readonly errors: ConfigError[];
}

/**
 * A value in a YAML text, checked as it is taken. What is wrong is noted at its line and its field and answered
 * with undefined, so that one look finds all that is wrong.
 */
export class CheckedNode {
  readonly place: ConfigPlace;
  readonly #source: Source;
  readonly #node: Node | null;

  /** The whole of a text; with errors where it is no YAML. */
  static of(
    text: string,
    file: string,
  ): { readonly root: CheckedNode; readonly errors: ConfigError[] } {
    const lines = new LineCounter();
    const source: Source = { file, lines, errors: [] };
    const start = { file, line: 1, field: '' };
    if (Buffer.byteLength(text) > TEXT_BYTES_MAX) {
      const words = `expected a configuration of at most ${TEXT_BYTES_MAX} bytes, got a longer one`;
      source.errors.push(new ConfigError(start, words));
      return { root: new CheckedNode(source, null, start), errors: source.errors };
    }
    // Of the two tags and schemas that YAML has, those that JSON is a part of.
    const document = parseDocument<ParsedNode>(text, {
      ...{ lineCounter: lines, version: '1.2', schema: 'core', prettyErrors: false },
      // Looked for in `fields`: here each key would be compared with all before it.
      uniqueKeys: false,
    });
    for (const { message, pos } of document.errors.slice(0, CONFIG_ERRORS_MAX + 1)) {
      const { line } = lines.linePos(pos[0]);
      source.errors.push(new ConfigError({ ...start, line }, `expected YAML, got: ${message}`));
    }
    return { root: new CheckedNode(source, document.contents, start), errors: source.errors };
  }

  private constructor(source: Source, node: Node | null, place: ConfigPlace) {
    this.#source = source;
    this.#node = node;
    this.place = place;
  }

  /** Notes that something is wrong with it, unless too much is already. */
  wrong(words: string): undefined {
    const { errors } = this.#source;
    if (errors.length <= CONFIG_ERRORS_MAX) errors.push(new ConfigError(this.place, words));
    return undefined;
  }

  /** Its fields, of which no other may be there. */
  fields<Name extends string>(
    names: readonly Name[],
  ): Partial<Record<Name, CheckedNode>> | undefined {
    const node = this.#node;
    if (!isMap<Node, Node | null>(node)) {
      return this.wrong(`expected fields (${names.join(', ')}), got ${described(node)}`);
    }
    const found: Partial<Record<Name, CheckedNode>> = {};
    for (const { key, value } of node.items) {
      const name = isScalar(key) ? String(key.value) : '';
      const child = this.#child(
        value,
        key,
        this.place.field === '' ? name : `${this.place.field}.${name}`,
      );
      if (!names.includes(name as Name)) {
        child.wrong(`expected one of ${names.join(', ')}, got an unknown field`);
      } else if (found[name as Name] !== undefined) {
        child.wrong(`expected ${name} once, got it again`);
      } else {
        found[name as Name] = child;
      }
    }
    return found;
  }

  /** Its items, at most so many. */
  items(most: number): CheckedNode[] | undefined {
    const node = this.#node;
    if (!isSeq<Node | null>(node)) return this.wrong(`expected a list, got ${described(node)}`);
    if (node.items.length > most) {
      return this.wrong(`expected at most ${most} of these, got ${node.items.length}`);
    }
    return node.items.map((item, index) =>
      this.#child(item, undefined, `${this.place.field}[${index}]`),
    );
  }

  get isFields(): boolean {
    return isMap(this.#node);
  }

  /** Text, as it was written: a number is its digits. */
  text(what: string): string | undefined {
    const node = this.#node;
    if (isScalar(node)) {
      const { value, source } = node as Scalar & { readonly source?: string };
      const text =
        typeof value === 'string' ? value : typeof value === 'number' ? source : undefined;
      if (text !== undefined && text !== '') return text;
    }
    return this.wrong(`expected ${what}, got ${described(node)}`);
  }

  integer(what: string, least: number, most: number): number | undefined {
    const value = isScalar(this.#node) ? this.#node.value : undefined;
    if (typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most) {
      return value;
    }
    return this.wrong(`expected ${what} from ${least} to ${most}, got ${described(this.#node)}`);
  }

  flag(what: string): boolean | undefined {
    const value = isScalar(this.#node) ? this.#node.value : undefined;
    if (typeof value === 'boolean') return value;
    return this.wrong(`expected ${what}, true or false, got ${described(this.#node)}`);
  }

  choice<Choice extends string>(choices: readonly Choice[]): Choice | undefined {
    const value = isScalar(this.#node) ? this.#node.value : undefined;
    if (choices.includes(value as Choice)) return value as Choice;
    return this.wrong(`expected ${choices.join(' or ')}, got ${described(this.#node)}`);
  }

  /** What `read` makes of the text; its error is what is wrong. */
  read<T>(what: string, read: (text: string) => T): T | undefined {
    const text = this.text(what);
    if (text === undefined) return undefined;
    try {
      return read(text);
    } catch (error) {
      return this.wrong(error instanceof Error ? error.message : String(error));
    }
  }

  #child(node: Node | null, key: Node | undefined, field: string): CheckedNode {
    const at = node?.range?.[0] ?? key?.range?.[0];
    const line = at === undefined ? this.place.line : this.#source.lines.linePos(at).line;
    return new CheckedNode(this.#source, node, { file: this.place.file, line, field });
  }
}

function described(node: Node | null): string {
  if (isMap(node)) return 'fields';
  if (isSeq(node)) return 'a list';
  if (isAlias(node)) return 'an alias, which is not taken here';
  if (isScalar(node) && node.value !== null) return JSON.stringify(node.value) ?? 'something else';
  return 'nothing';
}
