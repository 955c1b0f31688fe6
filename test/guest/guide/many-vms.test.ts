/** The page with two guests of one serve: every block of it is done here, in order, in the terminals that it says. */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ensureParts } from '../../../src/setup/ensure-parts.ts';
import { noSealedRam } from '../../protocol/memory/sealed-bench.ts';
import { UserShell } from '../user-shell.ts';
import { guideBlocks, outputPattern } from './guide-blocks.ts';
import { GuideTerminal } from './guide-terminal.ts';

const repository = fileURLToPath(new URL('../../..', import.meta.url));
const page = readFileSync(join(repository, 'docs/many-vms.md'), 'utf8');

const end = new AsyncDisposableStack();
const terminals = new Map<string, GuideTerminal>();
let user: UserShell;
let runtime: string;
beforeAll(async () => {
  await ensureParts();
  user = end.use(new UserShell());
  cpSync(join(repository, 'examples'), join(user.directory, 'examples'), { recursive: true });
  runtime = mkdtempSync(join(tmpdir(), 'sealbus-guide-'));
  end.defer(() => rmSync(runtime, { recursive: true, force: true }));
}, 600_000);
afterAll(() => end.disposeAsync());

function terminal(name: string): GuideTerminal {
  const known = terminals.get(name);
  if (known !== undefined) return known;
  const env = { ...user.environment, XDG_RUNTIME_DIR: runtime };
  const opened = end.use(new GuideTerminal(user.directory, env));
  terminals.set(name, opened);
  return opened;
}

describe.skipIf(noSealedRam() !== undefined)('docs/many-vms.md', () => {
  const blocks = guideBlocks(page).flatMap((block) => {
    if (block.kind !== 'sh') throw new Error(`expected sh alone, line ${block.lineNumber}`);
    const last = block.commands.length - 1;
    return block.commands.map(({ line, output }, index) => {
      const manner = { fails: block.fails && index === last, stays: block.stays && index === last };
      return [`${block.section}: ${line}`, { ...block, ...manner, line, output }] as const;
    });
  });

  it.each(blocks)('%s', async (_title, { terminal: name = '', line, output, fails, stays }) => {
    const expected = outputPattern(output);
    if (stays) return void (await terminal(name).start(line, expected));
    const { code, said } =
      line === '^C' ? await terminal(name).interrupt() : await terminal(name).run(line);
    expect(said).toMatch(expected);
    expect(code === 0 ? 'holds' : 'fails', said).toBe(fails ? 'fails' : 'holds');
  });

  it('leaves nothing behind', () => {
    expect(readdirSync(join(runtime, 'sealbus'))).toEqual([]);
  });
});
