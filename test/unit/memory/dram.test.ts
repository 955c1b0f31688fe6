import { ftruncateSync } from 'node:fs';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  close,
  copyFromAddress,
  copyToAddress,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  MAP_SHARED,
  memfdCreate,
  mmap,
  munmap,
  PROT_READ,
  PROT_WRITE,
  viewOfAddress,
} from '../../../src/ffi/libc.ts';
import { type KeySlot, keySlot } from '../../../src/keys/key-slot.ts';
import { KeyTable, type SlotKeys } from '../../../src/keys/key-table.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { Dram } from '../../../src/memory/controller/dram.ts';
import { Rotation } from '../../../src/memory/controller/rotation.ts';

/** More than a step of a rotation moves at once. */
const PAGES = 20;
const BYTES = PAGES * 4096;
const BLOCKS = BYTES / 16;
const VM = vmId(1);
const SLOTS = [keySlot(1), keySlot(2)];
const [OWN, OTHER] = SLOTS as [KeySlot, KeySlot];

let keys: KeyTable;
let dram: Dram;
/** As who has the memory modules sees it. */
let cells: Uint8Array;
let transferAt: number;

function setUp(): void {
  keys = new KeyTable();
  for (const slot of SLOTS) fill(slot);
  const fd = memfdCreate('dram');
  ftruncateSync(fd, BYTES);
  dram = new Dram(fd, BYTES);
  cells = viewOfAddress(mmap(0, BYTES, PROT_READ, MAP_SHARED, fd), BYTES);
  close(fd);
  transferAt = mmap(0, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
}

function tearDown(): void {
  keys.close();
  munmap(transferAt, BYTES);
}

beforeEach(setUp);
afterEach(tearDown);

function fill(slot: KeySlot): void {
  keys.generate(slot, { vm: VM });
  keys.activate(slot);
}

function keysOf(slot: KeySlot): SlotKeys {
  const pair = keys.keysFor(slot, VM);
  if (pair === undefined) throw new Error(`expected slot ${slot} in use`);
  return pair;
}

function write(slot: KeySlot, offset: number, bytes: Uint8Array): void {
  copyToAddress(transferAt, bytes);
  dram.write(keysOf(slot), offset, bytes.length, transferAt);
}

function read(slot: KeySlot, offset: number, length: number): Uint8Array {
  viewOfAddress(transferAt, length).fill(0x5c);
  dram.read(keysOf(slot), offset, length, transferAt);
  const bytes = new Uint8Array(length);
  copyFromAddress(bytes, transferAt);
  return bytes;
}

/** Steps until the end, and wipes the old key. */
function sweep(rotation: Rotation): void {
  for (let steps = 0; !rotation.step(keysOf(rotation.slot)); steps++) {
    if (steps > 2 * PAGES) throw new Error('expected a sweep that ends');
  }
  keys.finish(rotation.slot);
}

function begin(slot: KeySlot): Rotation {
  keys.rotate(slot);
  return new Rotation(slot, keys.describe(slot).generation, [dram]);
}

function blockAt(index: number, of = cells): string {
  return Buffer.from(of.subarray(index * 16, index * 16 + 16)).toString('hex');
}

describe('a rotation', () => {
  test('moves every page that was written, and no other; nothing of it is as it was', () => {
    const page = new Uint8Array(4096).fill(7);
    const written = [0, 1, 2, 5, 6, 11, 18, 19];
    for (const at of written) write(OWN, at * 4096, page);
    const before = cells.slice();
    const rotation = begin(OWN);
    sweep(rotation);
    expect(rotation.progress).toMatchObject({
      pages: PAGES,
      passedPages: PAGES,
      movedPages: written.length,
    });
    for (let index = 0; index < BLOCKS; index++) {
      const isWritten = written.includes(Math.floor(index / 256));
      expect(blockAt(index) === blockAt(index, before)).toBe(!isWritten);
      if (!isWritten) expect(blockAt(index)).toBe('0'.repeat(32));
    }
    for (const at of written) expect(read(OWN, at * 4096, 4096)).toEqual(page);
    expect(dram.writtenPages).toBe(written.length);
  });

  test('has nothing to move of what was written meanwhile', () => {
    const page = new Uint8Array(4096).fill(7);
    for (let at = 0; at < 18; at++) write(OWN, at * 4096, page);
    const rotation = begin(OWN);
    write(OWN, 0, new Uint8Array(10 * 4096).fill(8));
    write(OWN, 15 * 4096 + 77, Uint8Array.of(1));
    write(OWN, 19 * 4096, page);
    sweep(rotation);
    expect(rotation.progress.movedPages).toBe(18 - 10 - 1);
  });

  test('of a slot leaves the blocks that a DMA under another slot wrote; the rotation of that slot finds them', () => {
    write(OWN, 4096, new Uint8Array(4096).fill(7));
    write(OTHER, 4096 + 32, new Uint8Array(48).fill(9));
    const before = cells.slice();
    sweep(begin(OWN));
    const first = 256 + 2;
    for (let index = 256; index < 512; index++) {
      const isOthers = index >= first && index < first + 3;
      expect(blockAt(index) === blockAt(index, before)).toBe(isOthers);
    }
    expect(read(OTHER, 4096 + 32, 48)).toEqual(new Uint8Array(48).fill(9));
    expect(read(OWN, 4096, 32)).toEqual(new Uint8Array(32).fill(7));

    const between = cells.slice();
    const rotation = begin(OTHER);
    sweep(rotation);
    expect(rotation.progress.movedPages).toBe(1);
    for (let index = 256; index < 512; index++) {
      const isOthers = index >= first && index < first + 3;
      expect(blockAt(index) === blockAt(index, between)).toBe(!isOthers);
    }
    expect(read(OTHER, 4096 + 32, 48)).toEqual(new Uint8Array(48).fill(9));
    expect(read(OWN, 4096 + 80, 4096 - 80)).toEqual(new Uint8Array(4096 - 80).fill(7));
    // A whole page is its writer's again.
    write(OWN, 4096, new Uint8Array(4096).fill(3));
    expect(read(OWN, 4096, 4096)).toEqual(new Uint8Array(4096).fill(3));
  });

  test('meets a write of a few bytes, in a page of one slot and in a page of two', () => {
    for (const page of [1, 2]) write(OWN, page * 4096, new Uint8Array(4096).fill(7));
    write(OTHER, 2 * 4096 + 32, new Uint8Array(48).fill(9));
    const rotation = begin(OWN);
    const wanted = new Uint8Array(4096).fill(7);
    wanted.set([1, 2, 3], 1001);
    for (const page of [1, 2]) write(OWN, page * 4096 + 1001, Uint8Array.of(1, 2, 3));
    for (const when of ['before the sweep', 'after it']) {
      expect(read(OWN, 4096, 4096), when).toEqual(wanted);
      expect(read(OWN, 2 * 4096 + 80, 4096 - 80), when).toEqual(wanted.subarray(80));
      expect(read(OTHER, 2 * 4096 + 32, 48), when).toEqual(new Uint8Array(48).fill(9));
      if (when === 'before the sweep') sweep(rotation);
    }
  });

  test('leaves the noise of a key that is gone, and takes it for nobody’s', () => {
    write(OWN, 0, new Uint8Array(4096).fill(7));
    keys.destroy(OWN);
    fill(OWN);
    const before = cells.slice();
    expect(read(OWN, 0, 4096).filter((byte) => byte === 7).length).toBeLessThan(100);
    const rotation = begin(OWN);
    sweep(rotation);
    expect(rotation.progress.movedPages).toBe(0);
    expect(cells).toEqual(before);
  });
});

const NEVER = 0;
const UNKNOWN = -1;

/**
 * What DRAM should hold: for each block whose key it is under, and for each byte what that key finds there, or
 * that this is unknown, where bytes of a block were written under another key than the rest of it.
 */
class Model {
  /** A slot, and how often it was made anew, in one number. */
  readonly owner = new Uint32Array(BLOCKS);
  readonly bytes = new Int16Array(BYTES);
  readonly #lives = new Map<KeySlot, number>(SLOTS.map((slot) => [slot, 1]));

  owns(slot: KeySlot): number {
    return slot * 1000 + (this.#lives.get(slot) ?? 0);
  }

  renew(slot: KeySlot): void {
    this.#lives.set(slot, (this.#lives.get(slot) ?? 0) + 1);
  }

  write(slot: KeySlot, offset: number, bytes: Uint8Array): void {
    const end = offset + bytes.length;
    const mine = this.owns(slot);
    for (let page = Math.floor(offset / 4096); page * 4096 < end; page++) {
      // The rest of a page that was never written is zeros under the key of its first writer.
      if (this.owner[page * 256] === NEVER) this.owner.fill(mine, page * 256, page * 256 + 256);
    }
    for (let block = Math.floor(offset / 16); block * 16 < end; block++) {
      if (!this.reads(slot, block)) this.bytes.fill(UNKNOWN, block * 16, block * 16 + 16);
      this.owner[block] = mine;
    }
    this.bytes.set(bytes, offset);
  }

  /** Whether the slot's keys open a block. */
  reads(slot: KeySlot, block: number): boolean {
    return this.owner[block] === NEVER || this.owner[block] === this.owns(slot);
  }
}

test('whatever is written, moved, paused, revoked and made anew in whatever order, DRAM reads as it should', () => {
  const slot = fc.constantFrom(...SLOTS);
  const at = fc.oneof(
    fc.integer({ min: 0, max: BYTES - 1 }),
    fc.integer({ min: 0, max: PAGES - 1 }).map((page) => page * 4096),
  );
  const length = fc.oneof(
    fc.integer({ min: 1, max: 50 }),
    fc.integer({ min: 1, max: 20_000 }),
    fc.integer({ min: 1, max: 6 }).map((pages) => pages * 4096),
  );
  const action = fc.oneof(
    { weight: 8, arbitrary: fc.record({ do: fc.constant('write' as const), slot, at, length }) },
    { weight: 4, arbitrary: fc.record({ do: fc.constant('read' as const), slot, at, length }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant('rotate' as const), slot }) },
    // No step between two accesses is a rotation that is paused.
    {
      weight: 6,
      arbitrary: fc.record({
        do: fc.constant('step' as const),
        slot,
        steps: fc.integer({ min: 1, max: 12 }),
      }),
    },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('renew' as const), slot }) },
  );
  let finished = 0;
  fc.assert(
    fc.property(fc.array(action, { minLength: 10, maxLength: 40, size: 'max' }), (actions) => {
      tearDown();
      setUp();
      const model = new Model();
      const rotations = new Map<
        KeySlot,
        { rotation: Rotation; before: Uint8Array; mine: Uint32Array }
      >();
      let stamp = 0;
      for (const next of actions) {
        const current = rotations.get(next.slot);
        if (next.do === 'write') {
          const end = Math.min(BYTES, next.at + next.length);
          stamp++;
          const bytes = Uint8Array.from({ length: end - next.at }, (_, i) => stamp * 31 + i);
          write(next.slot, next.at, bytes);
          model.write(next.slot, next.at, bytes);
        } else if (next.do === 'read') {
          expectAsModel(model, next.slot, next.at, Math.min(BYTES - next.at, next.length));
        } else if (next.do === 'rotate' && current === undefined) {
          const mine = model.owner.map((owner) => (owner === model.owns(next.slot) ? 1 : 0));
          const before = cells.slice();
          rotations.set(next.slot, { rotation: begin(next.slot), before, mine });
        } else if (next.do === 'step' && current !== undefined) {
          const { rotation, mine, before } = current;
          let over = false;
          for (let left = next.steps; left > 0 && !over; left--) {
            over = rotation.step(keysOf(next.slot));
          }
          if (!over) continue;
          keys.finish(next.slot);
          rotations.delete(next.slot);
          finished++;
          for (const [block, was] of mine.entries()) {
            if (was === 1 && blockAt(block) === blockAt(block, before)) {
              expect.fail(`block ${block} is as it was under the old key`);
            }
          }
        } else if (next.do === 'renew') {
          // A revocation, in the middle of a rotation or not, and a new key in the slot.
          keys.revoke(next.slot);
          keys.destroy(next.slot);
          rotations.delete(next.slot);
          fill(next.slot);
          model.renew(next.slot);
        }
      }
      for (const each of SLOTS) expectAsModel(model, each, 0, BYTES);
    }),
    { numRuns: 60 },
  );
  // It says nothing of rotations unless some came to their end.
  expect(finished).toBeGreaterThan(20);
});

/** What the slot's keys find is what they should, and what others wrote is noise to them. */
function expectAsModel(model: Model, slot: KeySlot, offset: number, length: number): void {
  const found = read(slot, offset, length);
  for (let at = offset; at < offset + length; ) {
    const block = Math.floor(at / 16);
    const end = Math.min(block * 16 + 16, offset + length);
    let same = 0;
    for (let index = at; index < end; index++) {
      const wanted = model.bytes[index];
      if (wanted === found[index - offset]) same++;
      else if (wanted !== UNKNOWN && model.reads(slot, block)) {
        expect.fail(`slot ${slot} finds another byte than was written at ${index}`);
      }
    }
    if (same === 16 && !model.reads(slot, block)) {
      expect.fail(`slot ${slot} finds what was written under another in block ${block}`);
    }
    at = end;
  }
}
