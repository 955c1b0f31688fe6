import { beforeEach, describe, expect, test } from 'vitest';
import { type KeySlot, keySlot } from '../../../src/keys/key-slot.ts';
import { KeylessSlots } from '../../../src/keys/keyless-slots.ts';
import type { KeyOptions, RotateOptions, RotationProgress } from '../../../src/keys/slot-keeper.ts';
import { KeySlotError, type SlotDescription } from '../../../src/keys/slot-lifecycle.ts';
import { vmId } from '../../../src/keys/vm-id.ts';
import { KeySlots } from '../../../src/machine/key-slots.ts';
import { SlotRegister } from '../../../src/machine/slot-register.ts';

const SLOT = keySlot(5);
const VM = vmId(1);

/** A keeper that does what it is asked when it is let to, in the order of the asking, as a process does. */
class SlowKeeper extends KeylessSlots {
  readonly #waiting: (() => void)[] = [];
  holding = false;

  #later(step: () => Promise<SlotDescription>): Promise<SlotDescription> {
    if (!this.holding) return step();
    return new Promise((resolve) => this.#waiting.push(() => resolve(step())));
  }

  /** `steps` of them in one turn, as messages come that are read at once. */
  async letGo(steps = 1): Promise<void> {
    await new Promise(setImmediate);
    for (const step of this.#waiting.splice(0, steps)) step();
    await new Promise(setImmediate);
  }

  override generate(slot: KeySlot, options: KeyOptions) {
    return this.#later(() => super.generate(slot, options));
  }

  override rotate(slot: KeySlot, options: RotateOptions) {
    if (!this.holding) return super.rotate(slot, options);
    return this.#later(async () => {
      const active = await super.rotate(slot, options);
      // The promise of a process that was at it for longer is heard with what was so before.
      return { ...active, state: 'rotating' };
    });
  }

  override activate(slot: KeySlot) {
    return this.#later(() => super.activate(slot));
  }

  override revoke(slot: KeySlot) {
    return this.#later(() => super.revoke(slot));
  }

  override destroy(slot: KeySlot) {
    return this.#later(() => super.destroy(slot));
  }
}

let register: SlotRegister;
let keeper: SlowKeeper;
let keys: KeySlots;
beforeEach(() => {
  register = new SlotRegister();
  keeper = new SlowKeeper();
  keys = new KeySlots(register, keeper);
});

const use = () => register.use(SLOT);

describe('the order between the register and the keeper', () => {
  test('a slot serves once the keeper has said so, and no longer than until its revocation is asked for', async () => {
    await keys.generate(SLOT, { vm: VM });
    keeper.holding = true;
    const activated = keys.activate(SLOT);
    await new Promise(setImmediate);
    expect(use()).toBe('not-active');
    await keeper.letGo();
    expect(use()).toBe('active');
    await activated;
    const revoked = keys.revoke(SLOT);
    // Before the keeper has heard of it.
    expect(use()).toBe('not-active');
    await keeper.letGo();
    expect(await revoked).toMatchObject({ state: 'revoked', vm: VM, generation: 1 });
    const destroyed = keys.destroy(SLOT);
    expect(use()).toBe('empty');
    await keeper.letGo();
    expect(await destroyed).toMatchObject({ state: 'empty', vm: undefined, generation: 1 });
  });

  test('what was asked before does not bring a slot back that was withdrawn meanwhile', async () => {
    await keys.generate(SLOT, { vm: VM });
    keeper.holding = true;
    const activated = keys.activate(SLOT);
    const revoked = keys.revoke(SLOT);
    const destroyed = keys.destroy(SLOT);
    expect(use()).toBe('empty');
    for (const answer of [activated, revoked, destroyed]) {
      await keeper.letGo();
      await answer;
      expect(use()).toBe('empty');
    }
    keeper.holding = false;
    await keys.generate(SLOT, { vm: VM });
    await keys.activate(SLOT);
    expect(use()).toBe('active');
    expect(register.generation(SLOT)).toBe(2);
  });

  test('what came about last holds, whichever promise is heard when', async () => {
    await keys.generate(SLOT, { vm: VM });
    await keys.activate(SLOT);
    keeper.holding = true;
    const rotated = keys.rotate(SLOT);
    await keeper.letGo();
    expect(await rotated).toMatchObject({ state: 'rotating' });
    expect(register.describe(SLOT)).toMatchObject({ state: 'active', generation: 2 });
    const steps = [
      ...[keys.revoke(SLOT), keys.destroy(SLOT)],
      ...[keys.generate(SLOT, { vm: VM }), keys.destroy(SLOT), keys.generate(SLOT)],
    ];
    await keeper.letGo(steps.length);
    await Promise.all(steps);
    expect(register.describe(SLOT)).toMatchObject({
      state: 'loaded',
      vm: undefined,
      generation: 4,
    });
  });

  test('a life of the slot begins when it is filled, and goes on through rotations', async () => {
    const life = () => [register.since(SLOT), register.generation(SLOT)];
    expect(life()).toEqual([0, 0]);
    await keys.generate(SLOT, { vm: VM });
    await keys.activate(SLOT);
    await keys.rotate(SLOT);
    expect(life()).toEqual([1, 2]);
    await keys.destroy(SLOT);
    expect(life()).toEqual([0, 2]);
    await keys.generate(SLOT, { vm: VM });
    expect(life()).toEqual([3, 3]);
  });

  test('a keeper that is gone takes the slot with it', async () => {
    await keys.generate(SLOT, { vm: VM });
    await keys.activate(SLOT);
    keeper.revoke = () => Promise.reject(new Error('gone'));
    await expect(keys.revoke(SLOT)).rejects.toThrow('gone');
    expect(use()).toBe('not-active');
  });
});

describe('what a slot’s state does not allow', () => {
  test('is refused, and changes nothing', async () => {
    await expect(keys.bind(SLOT, VM)).rejects.toThrow(/loaded to bind it, got one that is empty/);
    await expect(keys.activate(SLOT)).rejects.toThrow(/generate or load a key first/);
    await expect(keys.rotate(SLOT)).rejects.toThrow(KeySlotError);
    await expect(keys.revoke(SLOT)).rejects.toThrow(KeySlotError);
    await expect(keys.pause(SLOT)).rejects.toThrow(/being rotated, got one that is empty/);
    await expect(keys.rotated(SLOT)).rejects.toThrow(/never was/);
    expect(keys.list()).toEqual([]);
    await keys.generate(SLOT, { keyBits: 128 });
    await expect(keys.generate(SLOT)).rejects.toThrow(/destroy it first/);
    await expect(keys.activate(SLOT)).rejects.toThrow(/bind it first/);
    await keys.bind(SLOT, VM);
    await expect(keys.bind(SLOT, vmId(2))).rejects.toThrow(/unbound slot, got one of VM 1/);
    await keys.activate(SLOT);
    await expect(keys.activate(SLOT)).rejects.toThrow(
      /loaded to activate it, got one that is active/,
    );
    expect(keys.list()).toEqual([
      { slot: SLOT, state: 'active', vm: VM, generation: 1, keyBits: 128 },
    ]);
  });

  test('where memory is plain there are no keys to load, and a rotation has nothing to move', async () => {
    await expect(keys.load(SLOT, 0)).rejects.toThrow(/plain memory, which uses none/);
    expect(use()).toBe('empty');
    await keys.generate(SLOT, { vm: VM });
    await keys.activate(SLOT);
    await expect(keys.rotate(SLOT, { descriptor: 0 })).rejects.toThrow(/plain memory/);
    const heard: RotationProgress[] = [];
    const stop = keys.onRotation((progress) => heard.push(progress));
    expect(await keys.rotate(SLOT)).toMatchObject({ state: 'active', generation: 2, keyBits: 256 });
    stop();
    await keys.rotate(SLOT);
    expect(heard).toEqual([await keys.rotated(SLOT)].map((last) => ({ ...last, generation: 2 })));
    expect(keys.rotation(SLOT)).toMatchObject({ state: 'done', generation: 3, pages: 0 });
  });
});
