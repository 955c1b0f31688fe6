import fc from 'fast-check';
import { expect, test } from 'vitest';
import { configSpace } from '../../../src/pci/config-space.ts';
import { LiveConfigSpace } from '../../../src/vfio-user/live-config-space.ts';
import { MemoryFunction } from '../../protocol/vfio-user/memory-function.ts';

type Event = 'master on' | 'master off' | 'function-level' | 'power-state' | 'intx';

function made(): { space: LiveConfigSpace; events: Event[] } {
  const events: Event[] = [];
  const space = new LiveConfigSpace(new MemoryFunction(), {
    busMaster: (enabled) => events.push(enabled ? 'master on' : 'master off'),
    reset: (cause) => events.push(cause),
    intxDisable: () => events.push('intx'),
  });
  return { space, events };
}

const writes = fc.array(
  fc.record({
    offset: fc.nat({ max: 4095 }),
    bytes: fc.uint8Array({ minLength: 1, maxLength: 8 }),
  }),
  { maxLength: 30 },
);

test('no write changes a bit that is not writable, and one write is as good as its bytes', () => {
  const laid = configSpace(new MemoryFunction());
  fc.assert(
    fc.property(writes, (list) => {
      const { space } = made();
      const byBytes = made().space;
      for (const { offset, bytes } of list) {
        const fitting = bytes.subarray(0, space.size - offset);
        space.write(offset, fitting);
        fitting.forEach((_, i) => {
          byBytes.write(offset + i, fitting.subarray(i, i + 1));
        });
      }
      const now = new Uint8Array(space.size);
      space.read(0, now);
      const alike = new Uint8Array(space.size);
      byBytes.read(0, alike);
      expect(Buffer.compare(now, alike)).toBe(0);
      const changed = now.findIndex((byte, i) => {
        const fixed = ~(laid.writable[i] ?? 0) & 0xff;
        return (byte & fixed) !== ((laid.bytes[i] ?? 0) & fixed);
      });
      expect(changed).toBe(-1);
    }),
    { numRuns: 200 },
  );
});

test('bus mastering is told exactly when the bit changes', () => {
  fc.assert(
    fc.property(fc.array(fc.nat({ max: 0xffff }), { maxLength: 20 }), (commands) => {
      const { space, events } = made();
      const expected: Event[] = [];
      let on = false;
      for (const command of commands) {
        space.write(4, new Uint8Array([command & 0xff, command >> 8]));
        const now = (command & 4) !== 0;
        if (now !== on) expected.push(now ? 'master on' : 'master off');
        on = now;
      }
      if (on) expected.push('master off');
      space.reset();
      expect(events.filter((event) => event !== 'intx')).toEqual(expected);
    }),
  );
});

test('a reset gives back the bytes of power-on', () => {
  const { space } = made();
  const fresh = new Uint8Array(space.size);
  space.read(0, fresh);
  for (let at = 0; at < 256; at++) space.write(at, new Uint8Array([0x7f & ~at]));
  space.reset();
  const after = new Uint8Array(space.size);
  space.read(0, after);
  expect(after).toEqual(fresh);
});

test('bus mastering ends though one long write clears its bit and begins a reset', () => {
  const { space, events } = made();
  space.write(4, new Uint8Array([4, 0]));
  const long = new Uint8Array(256);
  space.read(0, long);
  long[4] = 0;
  // Initiate Function Level Reset, wherever the capability lies.
  for (let at = 0x40; at < 256; at++) long[at] = 0xff;
  space.write(0, long);
  expect(events).toContain('function-level');
  space.reset();
  expect(events.filter((event) => event.startsWith('master'))).toEqual(['master on', 'master off']);
});
