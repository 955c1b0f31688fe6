import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { EscapeKeys } from '../../../src/cli/guest-streams.ts';

/** All at once, or in the given pieces. */
function typed(...pieces: readonly string[]): { to: string; leave: boolean } {
  const keys = new EscapeKeys();
  let to = '';
  for (const piece of pieces) {
    const { bytes, leave } = keys.take(Buffer.from(piece, 'latin1'));
    to += Buffer.from(bytes).toString('latin1');
    if (leave) return { to, leave };
  }
  return { to, leave: false };
}

describe('the way out of the console', () => {
  it.each([
    ['ls\r', 'ls\r', false],
    ['a\x01xb', 'a', true],
    ['\x01X', '', true],
    ['\x01\x01x', '\x01x', false],
    ['\x01c', '\x01c', false],
    ['\x01\x01\x01x', '\x01', true],
    ['x\x03\x04', 'x\x03\x04', false],
  ])('%j', (keys, to, leave) => {
    expect(typed(keys)).toEqual({ to, leave });
  });

  it('is the same however the keys come in pieces', () => {
    const keys = fc.array(fc.constantFrom('\x01', 'x', 'X', 'a', '\r'), { maxLength: 12 });
    fc.assert(
      fc.property(keys, (each) => {
        expect(typed(...each)).toEqual(typed(each.join('')));
      }),
    );
  });
});
