import { ftruncateSync } from 'node:fs';
import { setImmediate as turn } from 'node:timers/promises';
import { afterEach, beforeEach, expect, onTestFinished, test, vi } from 'vitest';
import {
  close,
  copyFromAddress,
  copyToAddress,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  memfdCreate,
  mmap,
  PROT_READ,
  PROT_WRITE,
} from '../../../src/ffi/libc.ts';
import { type KeySlot, keySlot } from '../../../src/keys/key-slot.ts';
import { KeyTable } from '../../../src/keys/key-table.ts';
import { rotationDuty } from '../../../src/keys/rotation-duty.ts';
import type { RotationProgress } from '../../../src/keys/slot-keeper.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { Dram } from '../../../src/memory/controller/dram.ts';
import { Rotations } from '../../../src/memory/controller/rotations.ts';

const PAGES = 2048;
const VM = vmId(1);
const OTHER_VM = vmId(2);
const [SLOT, SECOND] = [keySlot(1), keySlot(2)];
const pageAt = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);

let keys: KeyTable;
let memories: Dram[];
let told: RotationProgress[];
let failures: unknown[];
let serve: () => void;
let served: number;
let requests: number;
let rotations: Rotations;

beforeEach(() => {
  keys = new KeyTable();
  for (const slot of [SLOT, SECOND]) {
    keys.generate(slot, { vm: VM });
    keys.activate(slot);
  }
  [memories, told, failures, served, requests] = [[memory()], [], [], 0, 0];
  serve = () => {};
  rotations = new Rotations({
    keys,
    memories: (vm) => (vm === VM ? memories : []),
    serve: () => {
      served++;
      serve();
    },
    requests: () => requests,
    tell: (progress) => told.push(progress),
    failure: (error) => failures.push(error),
  });
});
afterEach(() => {
  rotations.close();
  keys.close();
  vi.useRealTimers();
});

function memory(): Dram {
  const fd = memfdCreate('dram');
  ftruncateSync(fd, PAGES * 4096);
  const dram = new Dram(fd, PAGES * 4096);
  close(fd);
  return dram;
}

/** Each page holds its number, written under a slot. */
function fill(slot: KeySlot, pages = PAGES): void {
  const pair = keys.keysFor(slot, VM);
  if (pair === undefined) throw new Error('expected a slot in use');
  for (let page = 0; page < pages; page++) {
    copyToAddress(pageAt, new Uint8Array(4096).fill(page));
    memories[0]?.write(pair, page * 4096, 4096, pageAt);
  }
}

function wrongPages(slot: KeySlot): number {
  const pair = keys.keysFor(slot, VM);
  if (pair === undefined) throw new Error('expected a slot in use');
  const bytes = new Uint8Array(4096);
  let wrong = 0;
  for (let page = 0; page < PAGES; page++) {
    memories[0]?.read(pair, page * 4096, 4096, pageAt);
    copyFromAddress(bytes, pageAt);
    if (!bytes.every((byte) => byte === page % 256)) wrong++;
  }
  return wrong;
}

async function turns(most: number, until: () => boolean): Promise<void> {
  for (let count = 0; count < most && !until(); count++) await turn();
}

const stateOf = (slot: KeySlot) => told.findLast((each) => each.slot === slot)?.state;

test('it moves all, a step between two looks for requests, and then wipes the old key', async () => {
  fill(SLOT);
  const old = keys.cipher(SLOT);
  rotations.begin(SLOT, {});
  await turns(10_000, () => stateOf(SLOT) === 'done');
  expect(told.at(0)).toMatchObject({ state: 'running', passedPages: 0, generation: 2 });
  expect(told.at(-1)).toMatchObject({
    ...{ slot: SLOT, generation: 2, state: 'done' },
    ...{ pages: PAGES, passedPages: PAGES, movedPages: PAGES },
  });
  // 16 pages a step, and a look after each.
  expect(served).toBe(PAGES / 16);
  expect(old.closed).toBe(true);
  expect(keys.describe(SLOT).state).toBe('active');
  expect(wrongPages(SLOT)).toBe(0);
});

test('requests that never end hold it up, and do not stop it', async () => {
  fill(SLOT, 320);
  serve = () => {
    // Longer than a turn of rotations may be.
    for (const end = performance.now() + 1; performance.now() < end; );
  };
  let others = 0;
  rotations.begin(SLOT, { duty: rotationDuty(20) });
  await turns(10_000, () => {
    others++;
    return stateOf(SLOT) === 'done';
  });
  expect(served).toBeGreaterThanOrEqual(20);
  // The event loop went round between any two steps.
  expect(others).toBeGreaterThanOrEqual(served);
});

test('while requests come it rests after each turn; while none comes it does not', async () => {
  fill(SLOT);
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  rotations.begin(SLOT, {});
  await turns(10_000, () => stateOf(SLOT) === 'done');
  expect(stateOf(SLOT)).toBe('done');

  serve = () => {
    requests++;
  };
  rotations.begin(SLOT, { duty: rotationDuty(20) });
  for (let rests = 0; rests < 2; rests++) {
    // Its turn is over soon, and then nothing goes on until its rest is.
    await turns(50, () => false);
    const before = served;
    await turns(50, () => false);
    expect(served).toBe(before);
    expect(stateOf(SLOT)).toBe('running');
    vi.advanceTimersByTime(1);
    expect(served).toBeGreaterThan(before);
  }
});

/**
 * Each step takes an eighth of a millisecond by the clock that turns are measured with; a rest is 1 ms.
 * @returns what waits for one turn, and says how many steps it had
 */
function stepping(): () => Promise<number> {
  const clock = vi.spyOn(performance, 'now');
  onTestFinished(() => clock.mockRestore());
  let now = 1000;
  clock.mockImplementation(() => now);
  serve = () => {
    requests++;
    now += 1 / 8;
  };
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  return async () => {
    const before = served;
    // The first turn is an immediate, or comes after a rest; no other comes before the next rest is over.
    vi.advanceTimersByTime(1);
    await turns(20, () => served > before);
    return served - before;
  };
}

test('of several the largest duty holds, as long as that one runs', async () => {
  const stepsOfTurn = stepping();
  fill(SECOND);
  fill(SLOT, PAGES / 2);
  rotations.begin(SLOT, { duty: rotationDuty(50) });
  rotations.begin(SECOND, { duty: rotationDuty(20) });
  expect(await stepsOfTurn()).toBe(8);
  expect(await stepsOfTurn()).toBe(8);
  rotations.pause(SLOT);
  expect(await stepsOfTurn()).toBe(2);
  rotations.resume(SLOT);
  expect(await stepsOfTurn()).toBe(8);
  expect([stateOf(SLOT), stateOf(SECOND)]).toEqual(['running', 'running']);
});

test('the duty of a rotation is how long its turns are beside its rests', async () => {
  const stepsOfTurn = stepping();
  for (const [duty, steps] of [
    [20, 2],
    [50, 8],
    [75, 24],
    // A turn is 10 ms at the most: what else there is to do waits for it.
    [95, 80],
  ] as const) {
    fill(SLOT);
    rotations.begin(SLOT, { duty: rotationDuty(duty) });
    expect(await stepsOfTurn(), `${duty} %`).toBe(steps);
    keys.revoke(SLOT);
    rotations.drop(SLOT);
    keys.destroy(SLOT);
    keys.generate(SLOT, { vm: VM });
    keys.activate(SLOT);
    memories = [memory()];
  }
});

test('with a duty of all it never rests, and the event loop goes round all the same', async () => {
  fill(SLOT);
  serve = () => {
    requests++;
  };
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  rotations.begin(SLOT, { duty: rotationDuty(100) });
  let others = 0;
  await turns(10_000, () => {
    others++;
    return stateOf(SLOT) === 'done';
  });
  expect(stateOf(SLOT)).toBe('done');
  expect(others).toBeGreaterThan(1);
});

test('paused it does nothing, and goes on where it was', async () => {
  fill(SLOT);
  // What waits for its turn asks for the pause, at the eighth step.
  serve = () => {
    if (served === 8) rotations.pause(SLOT);
  };
  rotations.begin(SLOT, {});
  await turns(100, () => false);
  expect(served).toBe(8);
  expect(told.at(-1)).toMatchObject({ state: 'paused', passedPages: 128, movedPages: 128 });
  expect(keys.keysFor(SLOT, VM)?.outgoing).toBeDefined();
  expect(wrongPages(SLOT)).toBe(0);
  expect(rotations.resume(SLOT)).toMatchObject({ state: 'running', passedPages: 128 });
  await turns(10_000, () => stateOf(SLOT) === 'done');
  expect(served).toBe(PAGES / 16);
  expect(wrongPages(SLOT)).toBe(0);
});

test('two of them take turns, each with its own pages', async () => {
  fill(SLOT);
  const own = keys.keysFor(SECOND, VM);
  if (own === undefined) throw new Error('expected a slot in use');
  memories[0]?.write(own, (PAGES - 1) * 4096, 4096, pageAt);
  rotations.begin(SLOT, {});
  rotations.begin(SECOND, {});
  await turns(10_000, () => stateOf(SLOT) === 'done' && stateOf(SECOND) === 'done');
  const movedBy = (slot: KeySlot) => told.findLast((each) => each.slot === slot)?.movedPages;
  expect([movedBy(SLOT), movedBy(SECOND)]).toEqual([PAGES - 1, 1]);
  // The second has one page to move and is not kept waiting for the first.
  const order = told.filter(({ state }) => state === 'done').map(({ slot }) => slot);
  expect(order).toEqual([SECOND, SLOT]);
});

test('a slot that is revoked in the middle ends it, and nothing moves any more', async () => {
  fill(SLOT);
  serve = () => {
    if (served !== 5) return;
    keys.revoke(SLOT);
    rotations.drop(SLOT);
  };
  rotations.begin(SLOT, {});
  await turns(100, () => false);
  expect(served).toBe(5);
  expect(told.at(-1)).toMatchObject({ state: 'ended', movedPages: 80 });
  expect(() => rotations.resume(SLOT)).toThrow(
    /expected a slot that is being rotated, got.*revoked/,
  );
  expect(failures).toEqual([]);
});

test('a memory that comes meanwhile has nothing to be moved; another VM’s is none of its business', async () => {
  fill(SLOT);
  const late = memory();
  serve = () => {
    if (served !== 3) return;
    const pair = keys.keysFor(SLOT, VM);
    if (pair === undefined) throw new Error('expected a slot in use');
    memories = [...memories, late];
    late.write(pair, 4096, 4096, pageAt);
  };
  rotations.begin(SLOT, {});
  await turns(10_000, () => stateOf(SLOT) === 'done');
  expect(told.at(-1)).toMatchObject({ pages: PAGES, movedPages: PAGES });
  const pair = keys.keysFor(SLOT, VM);
  if (pair === undefined) throw new Error('expected a slot in use');
  const before = new Uint8Array(4096);
  copyFromAddress(before, pageAt);
  late.read(pair, 4096, 4096, pageAt);
  const after = new Uint8Array(4096);
  copyFromAddress(after, pageAt);
  expect(after).toEqual(before);
  keys.destroy(SECOND);
  keys.generate(SECOND, { vm: OTHER_VM });
  keys.activate(SECOND);
  rotations.begin(SECOND, {});
  await turns(100, () => stateOf(SECOND) === 'done');
  expect(told.at(-1)).toMatchObject({ slot: SECOND, pages: 0, movedPages: 0 });
});

test('an engine that breaks pauses it, which is told, and a second one of the slot is refused', async () => {
  fill(SLOT);
  rotations.begin(SLOT, {});
  expect(() => rotations.begin(SLOT, {})).toThrow(/rotating: wait for the end of the rotation/);
  keys.keysFor(SLOT, VM)?.outgoing?.cipher.close();
  await turns(100, () => failures.length > 0);
  expect(failures).toHaveLength(1);
  expect(stateOf(SLOT)).toBe('paused');
  expect(() => rotations.pause(SECOND)).toThrow(/being rotated, got one that is active/);
});
