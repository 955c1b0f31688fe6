/** The pages for beginners: every block of them is done here, in order, and says what the page shows. */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ensureParts } from '../../../src/setup/ensure-parts.ts';
import { UserShell } from '../user-shell.ts';
import { type GuideBlock, guideBlocks, outputPattern } from './guide-blocks.ts';

const pages = ['first-driver-test.md', 'ci.md'];

let user: UserShell;
beforeAll(async () => {
  await ensureParts();
  await ensureParts({ kernel: 'trixie-backports' });
  user = new UserShell();
}, 600_000);
afterAll(() => user?.[Symbol.dispose]());

describe.each(pages)('docs/%s', (page) => {
  const text = readFileSync(new URL(`../../../docs/${page}`, import.meta.url), 'utf8');
  const blocks = guideBlocks(text).map((block) => [title(block), block] as const);

  it.each(blocks)('%s', async (_title, block) => {
    if (block.kind === 'sh') return await runs(block.commands, block.fails);
    if (block.kind === 'file') return user.write(block.file, block.content);
    const before = user.read(block.file);
    const part = block.kind === 'diff' ? block.before : block.content;
    expect(before.split(part).length, `one place in ${block.file} with:\n${part}`).toBe(2);
    if (block.kind === 'diff')
      user.write(
        block.file,
        before.replace(part, () => block.after),
      );
  });
});

function title({ section, lineNumber, ...block }: GuideBlock): string {
  const what = block.kind === 'sh' ? block.commands.map(({ line }) => line).join('; ') : block.file;
  return `${section}, line ${lineNumber}: ${what}`;
}

async function runs(
  commands: readonly { line: string; output: string }[],
  fails: boolean,
): Promise<void> {
  for (const [index, { line, output }] of commands.entries()) {
    const { code, said } = await user.run(line);
    const last = index === commands.length - 1;
    expect(code === 0 ? 'holds' : 'fails', `${line}\n${said}`).toBe(
      fails && last ? 'fails' : 'holds',
    );
    expect(said).toMatch(outputPattern(output));
  }
}
