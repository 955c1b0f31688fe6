import { resolve } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { kernelPreferences, kernelSuites } from '../../../src/setup/kernel.ts';
import { kernelName, kernelOf, parseKernel } from '../../../src/setup/kernel-choice.ts';
import { SetupError } from '../../../src/setup/setup-error.ts';

describe('what a kernel is called', () => {
  it.each(['trixie', 'trixie-backports'] as const)('%s is a suite', (suite) => {
    expect(parseKernel(suite)).toEqual({ kind: 'suite', suite });
  });

  it.each(['6.12.107+deb13-cloud-amd64', '7.3.4+deb13-cloud-amd64', '6.1.0-45-cloud-amd64'])(
    '%s is a release',
    (release) => {
      expect(parseKernel(release)).toEqual({ kind: 'release', release });
    },
  );

  it.each(['./linux', '/usr/src/linux', '../a b', '/'])('%s is a directory', (text) => {
    expect(parseKernel(text)).toEqual({ kind: 'directory', directory: resolve(text) });
  });

  it.each([
    '',
    'linux',
    'bookworm',
    '6.12',
    '6.12.107+deb13-amd64',
    '-cloud-amd64',
    'Trixie',
    '\n',
  ])('%j is refused, with what there is', (text) => {
    expect(() => parseKernel(text)).toThrow(SetupError);
    expect(() => parseKernel(text)).toThrow(/trixie-backports.*'\.\/linux'/);
  });

  test('whatever is taken has a name that is taken for the same', () => {
    const names = fc.oneof(
      fc.string(),
      fc.constantFrom('trixie', 'trixie-backports', '6.12.117+deb13-cloud-amd64'),
      fc.string().map((text) => `./${text.replaceAll('\0', '')}`),
    );
    fc.assert(
      fc.property(names, (text) => {
        let choice: ReturnType<typeof parseKernel>;
        try {
          choice = parseKernel(text);
        } catch (error) {
          expect(error).toBeInstanceOf(SetupError);
          return;
        }
        expect(parseKernel(kernelName(choice))).toEqual(choice);
      }),
    );
  });
});

describe('which one a guest gets', () => {
  const of = (env: Record<string, string>, named?: string) => kernelName(kernelOf(env, named));

  it('is trixie’s where nothing is said, nor anything empty', () => {
    expect(of({})).toBe('trixie');
    expect(of({ SEALBUS_KERNEL: '' })).toBe('trixie');
  });

  it('is what the environment says, and before that what is named', () => {
    expect(of({ SEALBUS_KERNEL: 'trixie-backports' })).toBe('trixie-backports');
    expect(of({ SEALBUS_KERNEL: 'trixie-backports' }, 'trixie')).toBe('trixie');
    expect(() => of({ SEALBUS_KERNEL: 'hurd' })).toThrow(/got "hurd"/);
    expect(() => of({}, '')).toThrow(SetupError);
  });
});

test('the backports are asked only for a kernel that may be there, and give the newest', () => {
  expect(kernelSuites(parseKernel('trixie'))).toEqual(['trixie']);
  expect(kernelSuites(parseKernel('/linux'))).toEqual([]);
  expect(kernelSuites(parseKernel('trixie-backports'))).toContain('trixie-backports');
  expect(kernelSuites(parseKernel('7.3.4+deb13-cloud-amd64'))).toContain('trixie-backports');
  expect(kernelPreferences(parseKernel('trixie-backports'))).toMatch(
    /^Package: linux-image-cloud-amd64\nPin: release n=trixie-backports\nPin-Priority: \d+\n$/,
  );
});
