/**
 * What may be asked through the control socket: one JSON object a line, `{"id":1,"op":"inspect","vm":"alpha"}`. The
 * answer has the same id: `{"id":1,"value":…}` or `{"id":1,"error":"…"}`. docs/serving.md lists the operations.
 */
import { NAMESPACES_MAX } from '../../devices/nvme/nvme-options.ts';
import { VIRTUAL_FUNCTIONS_MAX } from '../../devices/nvme/subsystem-place.ts';
import { KEY_SLOTS } from '../../keys/key-slot.ts';
import { MEMORY_BYTES_MAX } from '../../machine/memory-size.ts';

/** A line, its end included. */
export const LINE_BYTES_MAX = 256 * 1024;

const ID_MAX = Number.MAX_SAFE_INTEGER;
const NAME_MAX = 64;
const PATH_MAX = 4096;
const PAGE_BYTES = 4096;

/** A slot by its number, or that of a VM by its name. */
export type SlotName = string;

/** Whole pages by their guest-physical address, and whether they keep their content; else they are zeros. */
interface PagesRequest {
  readonly vm: string;
  readonly address: number;
  readonly bytes: number;
  readonly keep: boolean;
}

export interface ControlOperations {
  ps: object;
  inspect: { readonly vm: string };
  keys: object;
  'key-generate': { readonly slot: number; readonly vm?: string; readonly bits?: number };
  /** With a descriptor beside it, as `key-rotate` where `descriptor` is true. */
  'key-load': { readonly slot: number; readonly vm?: string; readonly bits?: number };
  'key-bind': { readonly slot: number; readonly vm: string };
  'key-activate': { readonly slot: number };
  /** `duty`: percent of the thread that serves memory. */
  'key-rotate': {
    readonly slot: SlotName;
    readonly bits?: number;
    readonly descriptor?: boolean;
    readonly duty?: number;
  };
  'key-pause': { readonly slot: SlotName };
  'key-resume': { readonly slot: SlotName };
  'key-revoke': { readonly slot: SlotName };
  'key-destroy': { readonly slot: SlotName };
  /**
   * To a slot of its VM's by its number, or to a VM by its name, where it is moved if it is another's: to `at` if
   * that is there, an address as the VM's guest has it.
   */
  bind: { readonly rid: string; readonly target: SlotName; readonly at?: string };
  /** To no slot: what it does is in the clear, for shared pages. */
  'bind-clear': { readonly rid: string };
  /** What it does in a range of addresses goes through a slot of its VM's, or with `clear` through none. */
  'bind-range': {
    readonly rid: string;
    readonly address: number;
    readonly bytes: number;
    readonly slot?: SlotName;
    readonly clear?: boolean;
  };
  'pages-share': PagesRequest;
  'pages-unshare': PagesRequest;
  /** `descriptor`: the number by which the text names the one that comes with the request. */
  'vm-add': {
    readonly text: string;
    readonly file: string;
    readonly directory: string;
    readonly descriptor?: number;
  };
  'vm-remove': { readonly vm: string };
  subsystems: object;
  'subsystem-inspect': { readonly subsystem: string };
  /** Gives a namespace to a function; to none with null. */
  'subsystem-assign': {
    readonly subsystem: string;
    readonly nsid: number;
    readonly function: number | null;
  };
  'subsystem-remove': { readonly subsystem: string };
  /** The lines that are kept, at most so many of the newest; then, with `follow`, each as it comes. */
  record: { readonly last?: number; readonly follow?: boolean };
  metrics: object;
}

export type ControlOperation = keyof ControlOperations;

export type ControlRequest = {
  [Op in ControlOperation]: { readonly id: number; readonly op: Op } & ControlOperations[Op];
}[ControlOperation];

/** What was sent is no request. */
export class RequestError extends Error {
  override readonly name = 'RequestError';
  /** Of the request, where that much could be read. */
  readonly id: number | null;

  constructor(message: string, id: number | null) {
    super(message);
    this.id = id;
  }
}

/** Says what it expected, or undefined where the value is right. */
type Check = (value: unknown) => string | undefined;

const text =
  (what: string, most: number): Check =>
  (value) =>
    typeof value === 'string' && value.length > 0 && value.length <= most
      ? undefined
      : `${what} of 1 to ${most} characters`;
const integer =
  (what: string, most: number): Check =>
  (value) =>
    typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= most
      ? undefined
      : `${what} from 0 to ${most}`;
const orNull =
  (check: Check): Check =>
  (value) => {
    const expected = value === null ? undefined : check(value);
    return expected === undefined ? undefined : `${expected}, or null`;
  };
const pages =
  (what: string, least: number, most: number): Check =>
  (value) =>
    typeof value === 'number' && value % PAGE_BYTES === 0 && value >= least && value <= most
      ? undefined
      : `${what}, a multiple of ${PAGE_BYTES} from ${least} to ${most}`;
const flag: Check = (value) => (typeof value === 'boolean' ? undefined : 'true or false');
const bits: Check = (value) => (value === 128 || value === 256 ? undefined : '128 or 256 bits');

const vm = text("a VM's name", NAME_MAX);
const subsystem = text("a subsystem's name", NAME_MAX);
const slot = integer('a key slot', KEY_SLOTS - 1);
const rid = text('a requester ID', NAME_MAX);
const pageRange = {
  address: pages('an address', 0, Number.MAX_SAFE_INTEGER - MEMORY_BYTES_MAX),
  bytes: pages('a number of bytes', PAGE_BYTES, MEMORY_BYTES_MAX),
};
const slotName = text("a key slot's number, or a VM's name, as text", NAME_MAX);

interface Shape {
  readonly must: Readonly<Record<string, Check>>;
  readonly may?: Readonly<Record<string, Check>>;
}

const SHAPES: Readonly<Record<ControlOperation, Shape>> = {
  ps: { must: {} },
  inspect: { must: { vm } },
  keys: { must: {} },
  'key-generate': { must: { slot }, may: { vm, bits } },
  'key-load': { must: { slot }, may: { vm, bits } },
  'key-bind': { must: { slot, vm } },
  'key-activate': { must: { slot } },
  'key-rotate': {
    must: { slot: slotName },
    may: { bits, descriptor: flag, duty: integer('a duty in percent', 100) },
  },
  'key-pause': { must: { slot: slotName } },
  'key-resume': { must: { slot: slotName } },
  'key-revoke': { must: { slot: slotName } },
  'key-destroy': { must: { slot: slotName } },
  bind: { must: { rid, target: slotName }, may: { at: text('an address', NAME_MAX) } },
  'bind-clear': { must: { rid } },
  'bind-range': { must: { rid, ...pageRange }, may: { slot: slotName, clear: flag } },
  'pages-share': { must: { vm, ...pageRange, keep: flag } },
  'pages-unshare': { must: { vm, ...pageRange, keep: flag } },
  'vm-add': {
    must: {
      text: text('a configuration', LINE_BYTES_MAX),
      file: text("a file's name", PATH_MAX),
      directory: text('a directory', PATH_MAX),
    },
    may: { descriptor: integer('the number of a descriptor', 1023) },
  },
  'vm-remove': { must: { vm } },
  subsystems: { must: {} },
  'subsystem-inspect': { must: { subsystem } },
  'subsystem-assign': {
    must: {
      subsystem,
      nsid: integer('an NSID', NAMESPACES_MAX),
      function: orNull(integer('the number of a function', VIRTUAL_FUNCTIONS_MAX)),
    },
  },
  'subsystem-remove': { must: { subsystem } },
  record: { must: {}, may: { last: integer('a number of lines', 100_000), follow: flag } },
  metrics: { must: {} },
};

/** @throws RequestError, whatever the line is */
export function parseRequest(line: string): ControlRequest {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw new RequestError('expected one JSON object a line, got no JSON', null);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new RequestError('expected one JSON object a line, got something else', null);
  }
  const { id, op, ...fields } = value as Record<string, unknown>;
  if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id > ID_MAX) {
    throw new RequestError('expected a whole number in id, got none', null);
  }
  const shape = typeof op === 'string' && Object.hasOwn(SHAPES, op) ? shapeOf(op) : undefined;
  if (shape === undefined) {
    throw new RequestError(`expected op to be one of ${Object.keys(SHAPES).join(', ')}`, id);
  }
  const { must, may = {} } = shape;
  for (const [name, given] of Object.entries(fields)) {
    const check = Object.hasOwn(must, name)
      ? must[name]
      : Object.hasOwn(may, name)
        ? may[name]
        : undefined;
    if (check === undefined) {
      const known = [...Object.keys(must), ...Object.keys(may)].join(', ') || 'none';
      throw new RequestError(
        `expected ${op} with no other fields than ${known}, got ${shown(name)}`,
        id,
      );
    }
    const expected = check(given);
    if (expected !== undefined) {
      throw new RequestError(`expected ${expected} in ${name} of ${op}, got ${shown(given)}`, id);
    }
  }
  const missing = Object.keys(must).find((name) => !Object.hasOwn(fields, name));
  if (missing !== undefined) throw new RequestError(`expected ${missing} with ${op}, got none`, id);
  return value as ControlRequest;
}

function shapeOf(op: string): Shape {
  return SHAPES[op as ControlOperation];
}

/** Short: who asks must not have us say back what it sent. */
function shown(value: unknown): string {
  const whole = JSON.stringify(value) ?? 'nothing';
  return whole.length > 40 ? `${whole.slice(0, 40)}…` : whole;
}
