import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { matrix, type Outcome, type Row } from '../../protocol/isolation/matrix.ts';

const page = readFileSync(join(import.meta.dirname, '../../../docs/isolation.md'), 'utf8');

function word(outcome: Outcome): string {
  if (outcome === 'done') return 'done';
  return 'refused' in outcome ? 'refused' : 'noise';
}

function record(outcome: Outcome): string | undefined {
  if (outcome === 'done') return undefined;
  if ('refused' in outcome) return outcome.refused;
  return outcome.noise === 'no record' ? undefined : outcome.noise;
}

test('the page has the matrix as it is tested, row by row', () => {
  const [, body = ''] = page.split('| the entry or the mapping has | read | write | record |\n');
  const rows = (body.split('\n\n')[0] ?? '').split('\n').slice(1);
  const tested = matrix.map((row: Row) => {
    const name = row.only === undefined ? row.name : `${row.name} (slot from the ${row.only})`;
    const reason = record(row.write);
    // One reason stands for the row: a read that is refused is so for the same one.
    if (record(row.read) !== undefined) expect(record(row.read)).toBe(reason);
    const recorded = reason === undefined ? 'none' : `\`${reason}\``;
    return `| ${[name, word(row.read), word(row.write), recorded].join(' | ')} |`;
  });
  expect(rows).toEqual(tested);
});
