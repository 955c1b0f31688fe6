/** `sealbus faults`, and what `run --fault` does not take. */
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { catalogue } from '../../../src/faults/index.ts';
import { RunPlace } from './sealbus.ts';

const place = new RunPlace();
afterEach(() => {
  expect(place.left).toEqual([]);
});
afterAll(() => place[Symbol.dispose]());

describe('sealbus faults', () => {
  it('lists each of the catalogue with a sentence and what it takes, on stdout', async () => {
    const { code, stdout, stderr } = await place.run(['faults']);
    expect([code, stderr]).toEqual([0, '']);
    const text = `${stdout}`;
    for (const [name, { says, parameters }] of Object.entries(catalogue)) {
      expect(text).toContain(`${name}\n  ${says}\n`);
      for (const key of Object.keys(parameters))
        expect(text).toMatch(new RegExp(`^  ${key}= `, 'm'));
    }
    expect(text).toContain('when a fault strikes');
    expect(text).not.toContain('\x1b');
  });

  it('is JSON for programs', async () => {
    const { code, stdout } = await place.run(['faults', '--json']);
    expect(code).toBe(0);
    const list = JSON.parse(`${stdout}`) as { name: string; says: string; parameters: object }[];
    expect(list.map(({ name }) => name)).toEqual(Object.keys(catalogue));
    expect(list.find(({ name }) => name === 'interrupt.delay')?.parameters).toEqual({
      ms: 'how late, in milliseconds; default 10',
    });
  });
});

describe('sealbus run --fault, before anything starts', () => {
  it.each([
    [
      'a fault that there is none of',
      ['--fault', 'disk.full'],
      /--fault.*got 'disk.full': there are completion/,
    ],
    ['a trigger with no sense', ['--fault', 'interrupt.lose:rate=7'], /a rate from 0 to 1, got 7/],
    ['a parameter of another', ['--fault', 'interrupt.lose:slot=1'], /takes no 'slot'/],
    ['a seed of 33 bits', ['--fault-seed', '0x100000000'], /a seed of 32 bits/],
    ['a seed alone', ['--fault-seed', '1'], /expected --fault with --fault-seed, got none/],
  ])('refuses %s', async (_, flags, why) => {
    const { code, stdout, stderr } = await place.run(['run', ...flags, '--', 'true']);
    expect(code).toBe(1);
    expect(`${stdout}`).toBe('');
    expect(stderr).toMatch(why);
  });

  it.each([
    [
      ...['for a function that is not there', 'interrupt.lose:rid=00:0a.0'],
      /function for --fault interrupt.lose at 0000:00:0a.0, got none: there are 0000:00:04.0/,
    ],
    [
      ...['of a register that is not there', 'register.stuck:register=colour'],
      /a register of Edu, got 'colour': it has identification, /,
    ],
  ] as const)('refuses one %s, with the machine there and no guest', async (_, fault, why) => {
    const { code, stderr } = await place.run([
      'run',
      '--memory',
      'plain',
      '--fault',
      fault,
      '--',
      'true',
    ]);
    expect(code).toBe(1);
    expect(stderr).toMatch(why);
    expect(stderr).not.toContain('booting');
  });
});
