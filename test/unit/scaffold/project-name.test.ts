import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { projectName, renamed } from '../../../src/scaffold/project-name.ts';
import { ScaffoldError } from '../../../src/scaffold/scaffold-error.ts';

describe('a project’s name', () => {
  it('is what npm, files, TypeScript and C have of it', () => {
    expect(projectName('my-2nd_device')).toEqual({
      package: 'my-2nd_device',
      snake: 'my_2nd_device',
      pascal: 'My2ndDevice',
      upper: 'MY_2ND_DEVICE',
    });
  });

  it.each([
    ...['', 'Demo', '2nd', 'a b', '-a', 'a-', 'a--b', 'a.b', '@a/b', '../a', 'é', 'a\n'],
    'a'.repeat(33),
  ])('is not %j', (name) => {
    expect(() => projectName(name)).toThrow(ScaffoldError);
    expect(() => projectName(name)).toThrow(/--name/);
  });

  it.each(['sealbus', 'vitest', 'typescript'])('is not %s, on which it depends', (name) => {
    expect(() => projectName(name)).toThrow(/which the project depends on/);
  });

  test('whatever is taken is a package of npm and an identifier of C', () => {
    const text = fc.oneof(fc.string(), fc.stringMatching(/^[a-z][a-z0-9_-]{0,31}$/));
    fc.assert(
      fc.property(text, (name) => {
        let named: ReturnType<typeof projectName>;
        try {
          named = projectName(name);
        } catch (error) {
          expect(error).toBeInstanceOf(ScaffoldError);
          return;
        }
        expect(named.package).toBe(name);
        expect(name).toMatch(/^[a-z0-9][a-z0-9_-]*$/);
        expect(named.snake).toMatch(/^[a-z][a-z0-9_]*$/);
        expect(named.upper).toBe(named.snake.toUpperCase());
        expect(`${named.pascal}Device`).toMatch(/^[A-Z][A-Za-z0-9]*Device$/);
      }),
    );
  });
});

test('the name stands in for the template’s in each of its spellings', () => {
  const name = projectName('my-device');
  const text = 'widget.ts: class WidgetDevice; widget_probe, WIDGET_RING, 0000:00:04.0';
  expect(renamed(text, name)).toBe(
    'my_device.ts: class MyDeviceDevice; my_device_probe, MY_DEVICE_RING, 0000:00:04.0',
  );
});
