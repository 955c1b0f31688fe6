import { describe, expect, it, test } from 'vitest';
import { guideBlocks, outputPattern } from '../../guest/guide/guide-blocks.ts';

const page = (...blocks: string[]) => `# Title\n\n${blocks.join('\n\ntext\n\n')}\n`;

describe('a page’s blocks', () => {
  it('are commands with what they say', () => {
    const text = page('```sh\n$ one\nits\nwords\n$ two\n```', '```sh fails\n$ three\n```');
    expect(guideBlocks(text)).toEqual([
      {
        ...{ section: 'Title', lineNumber: 3, kind: 'sh', fails: false },
        commands: [
          { line: 'one', output: 'its\nwords' },
          { line: 'two', output: '' },
        ],
      },
      {
        ...{ section: 'Title', lineNumber: 12, kind: 'sh', fails: true },
        commands: [{ line: 'three', output: '' }],
      },
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
