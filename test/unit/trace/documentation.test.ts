/** docs/traces.md says what the code does: every kind of line, every flag, and lines that are such. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { traceCommand } from '../../../src/cli/commands/trace.ts';
import { traceVariables } from '../../../src/trace/environment.ts';
import { checkLine, LINE_KINDS } from '../../../src/trace/event-shape.ts';

const page = readFileSync(join(import.meta.dirname, '../../../docs/traces.md'), 'utf8');

test('every kind of line has a row, and no other has', () => {
  const rows = [...page.matchAll(/^\| `([a-z-]+)` \|/gm)].map(([, kind]) => kind);
  expect(rows.toSorted()).toEqual([...LINE_KINDS].sort());
});

test('the example is a trace, but for what its dots leave out', () => {
  const lines = [...page.matchAll(/^ {4}(\{"(?:kind|t)".*\})$/gm)].map(([, line = '']) =>
    line
      .replace('"bars":[…]', '"bars":[]')
      .replace(
        '{…}',
        '{"vendor":1,"device":2,"subsystemVendor":1,"subsystem":0,"revision":0,"classCode":0}',
      ),
  );
  const kinds = lines.map((line) => checkLine(JSON.parse(line)).kind);
  expect(kinds.at(0)).toBe('trace');
  expect(kinds.at(-1)).toBe('end');
  expect(JSON.parse(lines.at(-1) ?? '').events).toBe(lines.length - 2);
});

test('every flag of sealbus trace and every variable is told', () => {
  for (const { long } of traceCommand().options) {
    if (long !== '--output') expect(page).toContain(`\`${long} `);
  }
  for (const name of Object.values(traceVariables)) expect(page).toContain(`\`${name}\``);
});
