import { describe, expect, it, test } from 'vitest';
import { guideBlocks, outputPattern } from '../../guest/guide/guide-blocks.ts';

const page = (...blocks: string[]) => `# Title\n\n${blocks.join('\n\ntext\n\n')}\n`;

describe('a page’s blocks', () => {
  it('are commands with what they say', () => {
    const text = page('```sh\n$ one\nits\nwords\n$ two\n```', '```sh fails\n$ three\n```');
    const inShell = { terminal: undefined, stays: false };
    expect(guideBlocks(text)).toEqual([
      {
        ...{ section: 'Title', lineNumber: 3, kind: 'sh', fails: false, ...inShell },
        commands: [
          { line: 'one', output: 'its\nwords' },
          { line: 'two', output: '' },
        ],
      },
      {
        ...{ section: 'Title', lineNumber: 12, kind: 'sh', fails: true, ...inShell },
        commands: [{ line: 'three', output: '' }],
      },
    ]);
  });

  it('are what is typed in a terminal, a guest’s shell and keys among it', () => {
    const text = page(
      '```sh serve stays\n$ one\n…\n/ # two\nthree\n```',
      '```sh serve\n^C\nfour\n```',
      '```sh guest fails\n/ # five\n```',
    );
    expect(guideBlocks(text)).toMatchObject([
      {
        ...{ terminal: 'serve', fails: false, stays: true },
        commands: [
          { line: 'one', output: '…' },
          { line: 'two', output: 'three' },
        ],
      },
      { terminal: 'serve', fails: false, stays: false, commands: [{ line: '^C', output: 'four' }] },
      { terminal: 'guest', fails: true, stays: false, commands: [{ line: 'five', output: '' }] },
    ]);
  });

  it('are files, parts of files, and lines that replace others', () => {
    const text = page(
      '```ts a/b.ts\nx;\n```',
      '```ts shown c.ts\ny;\n```',
      '```diff d.c\n a\n-b\n+c\n```',
    );
    expect(guideBlocks(text)).toMatchObject([
      { kind: 'file', file: 'a/b.ts', content: 'x;\n' },
      { kind: 'shown', file: 'c.ts', content: 'y;\n' },
      { kind: 'diff', file: 'd.c', before: 'a\nb\n', after: 'a\nc\n' },
    ]);
  });

  it.each(['```ts\nx;\n```', '```\nx\n```', '```json a.json\n{}\n```', '```sh\n$ one'])(
    'are none of another kind, and end: %j',
    (block) => {
      expect(() => guideBlocks(page(block))).toThrow(/expected/);
    },
  );
});

test('what differs from run to run is left out, and nothing else', () => {
  const pattern = outputPattern('…\nat 0x… (1)\n…\nend');
  expect('some\nwords\nat 0x12 (1)\nend').toMatch(pattern);
  expect('at 0x (1)\nany\nlines\nend').toMatch(pattern);
  expect('at 0x12 (2)\nend').not.toMatch(pattern);
  expect('at 0x12 (1)\nend\nmore').not.toMatch(pattern);
  expect('before at 0x12 (1)\nend').not.toMatch(pattern);
  expect('anything\nat all').toMatch(outputPattern('…'));
  expect('').toMatch(outputPattern(''));
  expect('something').not.toMatch(outputPattern(''));
});

test('a row of a hex dump that is no text stands for any noise, and for no text', () => {
  const noise = '00000000  8e c2 75 4f e4 c1 d4 43  |..uO...C|';
  const other = '00000000  01 99 20 00 7f 80 9a ff  |.. .....|';
  const text = '00000000  74 68 65 20 73 61 6d 65  |the same|';
  expect(other).toMatch(outputPattern(noise));
  expect(text).not.toMatch(outputPattern(noise));
  expect(text).toMatch(outputPattern(text));
  expect(other).not.toMatch(outputPattern(text));
  expect('00000010  01 99 20 00 7f 80 9a ff  |.. .....|').not.toMatch(outputPattern(noise));
});
