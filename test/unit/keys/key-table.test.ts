import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { WeakKeyError, XtsError } from '../../../src/crypto/xts-cipher.ts';
import { socketPair } from '../../../src/ffi/socket-pair.ts';
import { KEY_SLOTS, type KeySlot, keySlot } from '../../../src/keys/key-slot.ts';
import { KeyTable } from '../../../src/keys/key-table.ts';
import { GENERATION_MAX } from '../../../src/keys/key-tag.ts';
import { KeySlotError, SlotLifecycle, type SlotState } from '../../../src/keys/slot-lifecycle.ts';
import { VM_ID_MAX, type VmId, vmId } from '../../../src/keys/vm-id.ts';

const vm = vmId(3);
const other = vmId(4);
const slot = keySlot(7);
const page = Uint8Array.from({ length: 4096 }, (_, i) => i >>> 2);
let table: KeyTable;
let directory: string;

beforeEach(() => {
  table = new KeyTable();
  directory = mkdtempSync(join(tmpdir(), 'sealbus-keys-'));
});
afterEach(() => {
  table.close();
  rmSync(directory, { recursive: true, force: true });
});

function withFile<T>(bytes: Uint8Array, use: (fd: number) => T): T {
  const path = join(directory, 'key');
  writeFileSync(path, bytes);
  const fd = openSync(path, 'r');
  try {
    return use(fd);
  } finally {
    closeSync(fd);
  }
}

function encrypted(from: KeyTable, of = slot): Uint8Array {
  const out = new Uint8Array(4096);
  from.cipher(of).encrypt(page, out, 1, 0, 4096);
  return out;
}

describe('lifecycle', () => {
  test('empty → loaded → active → revoked → empty, and what each state answers', () => {
    expect(table.describe(slot)).toEqual({
      slot,
      state: 'empty',
      vm: undefined,
      generation: 0,
      keyBits: undefined,
    });
    expect(table.refusal(slot, vm)).toBe('slot-empty');
    table.generate(slot);
    expect(table.refusal(slot, vm)).toBe('slot-not-active');
    expect(() => table.activate(slot)).toThrow(/bind it first/);
    table.bind(slot, vm);
    expect(() => table.bind(slot, other)).toThrow(/unbound slot, got one of VM 3/);
    table.activate(slot);
    expect(table.refusal(slot, vm)).toBeUndefined();
    expect(table.refusal(slot, other)).toBe('slot-of-another-vm');
    expect(table.cipher(slot).keyBits).toBe(256);
    table.revoke(slot);
    expect(table.refusal(slot, vm)).toBe('slot-not-active');
    expect(table.refusal(slot, other)).toBe('slot-of-another-vm');
    table.destroy(slot);
    expect(table.refusal(slot, vm)).toBe('slot-empty');
    table.generate(slot, { vm: other, keyBits: 128 });
    expect(table.describe(slot)).toEqual({
      slot,
      state: 'loaded',
      vm: other,
      generation: 2,
      keyBits: 128,
    });
  });

  test('a cipher ends with its key, whoever still holds it', () => {
    for (const end of ['revoke', 'destroy', 'close'] as const) {
      using own = new KeyTable();
      own.generate(slot, { vm });
      own.activate(slot);
      const cipher = own.cipher(slot);
      if (end === 'close') own.close();
      else own[end](slot);
      const into = new Uint8Array(16).fill(7);
      expect(() => cipher.decrypt(page, into, 0, 0, 16)).toThrow(XtsError);
      expect(into.every((byte) => byte === 7)).toBe(true);
      expect(() => own.cipher(slot)).toThrow(KeySlotError);
    }
  });

  test('an unusable slot is refused with the reason that a fault record needs', () => {
    const refusalOf = () => {
      try {
        table.cipher(slot);
        return 'none';
      } catch (error) {
        return error instanceof KeySlotError ? error.refusal : 'another error';
      }
    };
    expect(refusalOf()).toBe('slot-empty');
    table.generate(slot, { vm });
    expect(refusalOf()).toBe('slot-not-active');
    table.activate(slot);
    expect(refusalOf()).toBe('none');
    table.revoke(slot);
    expect(refusalOf()).toBe('slot-not-active');
  });

  test('a rotation has the keys of two generations, and ends with the newer', () => {
    table.generate(slot, { vm });
    table.activate(slot);
    const first = table.cipher(slot);
    const underFirst = encrypted(table);
    table.rotate(slot, { keyBits: 128 });
    expect(table.describe(slot)).toEqual({
      ...{ slot, state: 'rotating', vm },
      ...{ generation: 2, keyBits: 128 },
    });
    expect(table.refusal(slot, vm)).toBeUndefined();
    expect(table.keysFor(slot, other)).toBeUndefined();
    const pair = table.keysFor(slot, vm);
    expect(pair?.outgoing?.cipher).toBe(first);
    expect(pair?.outgoing?.tag).not.toBe(pair?.tag);
    expect(encrypted(table)).not.toEqual(underFirst);
    expect(() => table.rotate(slot)).toThrow(/got one that is rotating: wait for the end/);
    table.finish(slot);
    expect(first.closed).toBe(true);
    expect(table.describe(slot)).toMatchObject({ state: 'active', generation: 2 });
    expect(table.keysFor(slot, vm)).toMatchObject({ outgoing: undefined });
    expect(() => table.finish(slot)).toThrow(/expected a slot that is rotating/);
  });

  test('a rotation to a key that is none leaves the slot as it was', () => {
    table.generate(slot, { vm });
    table.activate(slot);
    const before = encrypted(table);
    for (const wrong of [new Uint8Array(64).fill(3), new Uint8Array(63)]) {
      withFile(wrong, (fd) => expect(() => table.rotate(slot, { fd })).toThrow(/key/));
      expect(table.describe(slot)).toMatchObject({ state: 'active', generation: 1 });
      expect(encrypted(table)).toEqual(before);
    }
    const key = Uint8Array.from({ length: 64 }, (_, i) => i);
    withFile(key, (fd) => table.rotate(slot, { fd }));
    const second = keySlot(8);
    withFile(key, (fd) => table.load(second, fd, { vm }));
    table.activate(second);
    expect(encrypted(table)).toEqual(encrypted(table, second));
  });

  test('whatever is asked in whatever order, a slot goes only where its state lets it, and has the key it should', () => {
    const steps = [
      ...['generate', 'load', 'bind', 'activate', 'rotate', 'rotate to a file’s', 'finish'],
      ...['revoke', 'destroy'],
    ] as const;
    const step = fc.record({
      do: fc.constantFrom(...steps),
      on: fc.constantFrom(keySlot(0), keySlot(31), keySlot(32)),
      vm: fc.constantFrom(vm, other),
      key: fc.integer({ min: 0, max: 3 }),
    });
    const keyOf = (n: number) => Uint8Array.from({ length: 64 }, (_, i) => i * 3 + n);
    /** What a page is under each of the keys that files hold. */
    const underFile = [0, 1, 2, 3].map((n) => {
      using own = new KeyTable();
      withFile(keyOf(n), (fd) => own.load(slot, fd, { vm }));
      own.activate(slot);
      return Buffer.from(encrypted(own));
    });
    const done = new Set<string>();
    /** By chance alone one of the steps may find no slot in its state all the time. */
    const wholeLife = [
      ...(['generate', 'bind', 'activate', 'rotate', 'finish', 'revoke', 'destroy'] as const),
      ...(['load', 'bind', 'activate', 'rotate to a file’s', 'finish'] as const),
    ].map((what, n) => ({ do: what, on: keySlot(31), vm, key: n % 4 }));
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60, size: 'max' }), (wanted) => {
        using own = new KeyTable();
        const model = new Map<KeySlot, SlotModel>();
        for (const { do: what, on, vm: whose, key } of wanted) {
          const now = model.get(on) ?? {
            state: 'empty',
            vm: undefined,
            generation: 0,
            key: undefined,
          };
          const next = afterStep(now, what, whose, key);
          const act = () => {
            if (what === 'bind') own.bind(on, whose);
            else if (what === 'load') withFile(keyOf(key), (fd) => own.load(on, fd));
            else if (what === 'rotate to a file’s')
              withFile(keyOf(key), (fd) => own.rotate(on, { fd }));
            else own[what](on);
          };
          if (next === undefined) expect(act).toThrow(KeySlotError);
          else {
            act();
            model.set(on, next);
            done.add(what);
          }
        }
        for (const [on, { state, vm: owner, generation, key }] of model) {
          expect(own.describe(on)).toMatchObject({ state, vm: owner, generation });
          const isServing = state === 'active' || state === 'rotating';
          expect(own.keysFor(on, owner ?? vm) !== undefined).toBe(isServing);
          expect(own.keysOf(on)?.outgoing !== undefined).toBe(state === 'rotating');
          if (isServing && key !== undefined) {
            expect(Buffer.compare(encrypted(own, on), underFile[key] as Buffer)).toBe(0);
          }
        }
      }),
      { numRuns: 100, examples: [[wholeLife]] },
    );
    expect([...done].sort()).toEqual([...steps].sort());
  });

  test('a slot has as many keys as its generations can count, and then no more', () => {
    const life = new SlotLifecycle();
    const about = { vm, keyBits: 256 } as const;
    life.fill('generate', slot, about);
    life.activate(slot);
    for (let generation = 2; generation <= GENERATION_MAX; generation++) {
      life.rotate(slot, 256);
      life.finish(slot);
    }
    expect(() => life.rotate(slot, 256)).toThrow(/take another slot/);
    life.destroy(slot);
    expect(() => life.fill('generate', slot, about)).toThrow(/take another slot/);
  });
});

/** What a slot should be. `key` is the number of the file that its newest key came from. */
interface SlotModel {
  readonly state: SlotState;
  readonly vm: VmId | undefined;
  readonly generation: number;
  readonly key: number | undefined;
}

/** What a step makes of a slot, or undefined where the table must refuse it. */
function afterStep(now: SlotModel, what: string, vm: VmId, key: number): SlotModel | undefined {
  const next = now.generation + 1;
  switch (`${now.state}: ${what}`) {
    case 'empty: generate':
      return { ...now, state: 'loaded', generation: next, key: undefined };
    case 'empty: load':
      return { ...now, state: 'loaded', generation: next, key };
    case 'loaded: bind':
      return now.vm === undefined || now.vm === vm ? { ...now, vm } : undefined;
    case 'loaded: activate':
      return now.vm === undefined ? undefined : { ...now, state: 'active' };
    case 'active: rotate':
      return { ...now, state: 'rotating', generation: next, key: undefined };
    case 'active: rotate to a file’s':
      return { ...now, state: 'rotating', generation: next, key };
    case 'rotating: finish':
      return { ...now, state: 'active' };
    case 'loaded: revoke':
    case 'active: revoke':
    case 'rotating: revoke':
      return { ...now, state: 'revoked' };
  }
  return what === 'destroy' ? { ...now, state: 'empty', vm: undefined, key: undefined } : undefined;
}

describe('keys', () => {
  test('generated keys differ from slot to slot and from generation to generation', () => {
    const seen = new Set<string>();
    for (const index of [0, 1, 63, 64, KEY_SLOTS - 1]) {
      for (let generation = 0; generation < 3; generation += 1) {
        const at = keySlot(index);
        table.generate(at, { vm });
        table.activate(at);
        seen.add(Buffer.from(encrypted(table, at)).toString('hex'));
        table.destroy(at);
      }
    }
    expect(seen.size).toBe(15);
  });

  test('all 4,096 slots hold a key of their own at once', () => {
    for (let index = 0; index < KEY_SLOTS; index += 1) table.generate(keySlot(index), { vm });
    expect(table.list().length).toBe(KEY_SLOTS);
    for (const index of [0, 2048, KEY_SLOTS - 1]) table.activate(keySlot(index));
    expect(encrypted(table, keySlot(0))).not.toEqual(encrypted(table, keySlot(KEY_SLOTS - 1)));
  });

  test.each(['evp', 'node', 'noble'] as const)(
    'the same key loaded twice is the same key: %s',
    (engine) => {
      using second = new KeyTable({ engine });
      withFile(
        Uint8Array.from({ length: 64 }, (_, i) => i),
        (fd) => {
          table.load(slot, fd, { vm });
          second.load(slot, fd, { vm });
        },
      );
      table.activate(slot);
      second.activate(slot);
      expect(encrypted(second)).toEqual(encrypted(table));
    },
  );

  test('a socket that has only part of a key is refused, not waited for', () => {
    const key = Uint8Array.from({ length: 64 }, (_, i) => i);
    const [mine, theirs] = socketPair();
    try {
      writeSync(theirs, key.subarray(0, 40));
      expect(() => table.load(slot, mine)).toThrow(/64 bytes, got 40 and none waiting/);
      expect(table.describe(slot).state).toBe('empty');
      writeSync(theirs, key);
      table.load(slot, mine);
      expect(table.describe(slot).state).toBe('loaded');
    } finally {
      closeSync(mine);
      closeSync(theirs);
    }
  });

  test('refuses what is no key, and the slot stays empty', () => {
    const bytes = Uint8Array.from({ length: 64 }, (_, i) => i);
    for (const [wrong, message] of [
      [bytes.subarray(0, 63), /exactly 64 bytes in the file, got 63/],
      [new Uint8Array(65), /exactly 64 bytes in the file, got 65/],
      [new Uint8Array(4096), /exactly 64 bytes in the file, got 4096/],
      [new Uint8Array(0), /exactly 64 bytes in the file, got 0/],
    ] as const) {
      withFile(wrong, (fd) => expect(() => table.load(slot, fd)).toThrow(message));
      expect(table.describe(slot).state).toBe('empty');
    }
    withFile(new Uint8Array(64).fill(9), (fd) => {
      expect(() => table.load(slot, fd)).toThrow(WeakKeyError);
    });
    withFile(bytes.subarray(0, 32), (fd) => table.load(slot, fd, { keyBits: 128 }));
    expect(table.describe(slot)).toMatchObject({ state: 'loaded', keyBits: 128 });
    const directoryFd = openSync(directory, 'r');
    expect(() => table.load(keySlot(8), directoryFd)).toThrow(/key/);
    closeSync(directoryFd);
    expect(() => table.load(keySlot(8), 1_000_000)).toThrow(/EBADF/);
  });
});

test('a VM id is a small integer', () => {
  for (const wrong of [-1, 0.5, Number.NaN, VM_ID_MAX + 1]) {
    expect(() => vmId(wrong)).toThrow(RangeError);
  }
  expect(vmId(0)).toBe(0);
});
