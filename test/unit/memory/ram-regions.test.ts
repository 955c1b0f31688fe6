import fc from 'fast-check';
import { expect, test } from 'vitest';
import { gpa } from '../../../src/memory/guest-memory.ts';
import { type RamRegion, RamRegions } from '../../../src/memory/ram-regions.ts';

const region = fc.record({
  gpa: fc.integer({ min: 0, max: 300 }).map(gpa),
  size: fc.integer({ min: 1, max: 60 }),
  readable: fc.boolean(),
  writable: fc.boolean(),
  backing: fc.integer({ min: 1, max: 1e6 }),
});

test('regions answer as a map of single bytes would, through any adding and removing', () => {
  const step = fc.record({ region, remove: fc.boolean(), probe: fc.integer({ min: 0, max: 400 }) });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const regions = new RamRegions<number>();
      const bytes = new Map<number, RamRegion<number>>();
      for (const { region: next, remove, probe } of steps) {
        const covered = Array.from({ length: next.size }, (_, i) => next.gpa + i);
        if (remove) {
          const victim = bytes.get(probe);
          if (victim === undefined) expect(regions.remove(next.gpa, next.size + 1000)).toBe(false);
          else {
            expect(regions.remove(victim.gpa, victim.size)).toBe(true);
            for (let i = 0; i < victim.size; i++) bytes.delete(victim.gpa + i);
          }
        } else if (covered.some((at) => bytes.has(at))) {
          expect(() => regions.add(next)).toThrow(RangeError);
        } else {
          regions.add(next);
          for (const at of covered) bytes.set(at, next);
        }
        expect(regions.find(probe)).toBe(bytes.get(probe));
        for (const direction of ['read', 'write'] as const) {
          let allowed = true;
          for (let at = probe; at < probe + 20; at++) {
            const there = bytes.get(at);
            if (!(direction === 'read' ? there?.readable : there?.writable)) allowed = false;
          }
          expect(regions.permits(direction, probe, 20)).toBe(allowed);
        }
      }
    }),
  );
});
