import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { catalogue, TRIGGERS } from '../../../src/faults/index.ts';

const page = readFileSync(join(import.meta.dirname, '../../../docs/faults.md'), 'utf8');

/** The rows of the table whose header begins so. */
function table(header: string): string[] {
  const [, body = ''] = page.split(`${header}\n`);
  return (body.split('\n\n')[0] ?? '').split('\n').slice(1);
}

it('has each fault of the catalogue in its table, with what it takes, in the catalogue’s words', () => {
  const rows = Object.entries(catalogue).map(([name, { says, occasion, parameters }]) => {
    const own = Object.entries(parameters).map(([key, { says: what }]) => `\`${key}\`: ${what}`);
    const cells = [[`\`${name}\``, ...own].join('<br>'), says, occasion];
    return `| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`;
  });
  expect(table('| fault | what happens | what is counted |')).toEqual(rows);
});

it('has each trigger', () => {
  const rows = table('| | it strikes |').join('\n');
  for (const trigger of [...Object.keys(TRIGGERS), 'when'])
    expect(rows).toContain(`\`${trigger}: `);
});
