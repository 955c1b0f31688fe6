import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { freeHugepageBytes, spdkProgram } from '../../../bench/spdk-target.ts';

test('a target is found on PATH where it may be executed, and nowhere else', () => {
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-spdk-'));
  try {
    const program = join(directory, 'nvmf_tgt');
    expect(spdkProgram(directory)).toBeUndefined();
    writeFileSync(program, '#!/bin/sh\n');
    chmodSync(program, 0o644);
    // root may execute what has any execute bit, and this has none.
    expect(spdkProgram(`/nonexistent::${directory}`)).toBeUndefined();
    chmodSync(program, 0o755);
    expect(spdkProgram(`/nonexistent::${directory}`)).toBe(program);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test('free hugepages are counted in bytes; a kernel without them has none', () => {
  const text = 'MemTotal: 1 kB\nHugePages_Total:     600\nHugePages_Free:      512\n';
  expect(freeHugepageBytes(`${text}Hugepagesize:       2048 kB\n`)).toBe(2 ** 30);
  expect(freeHugepageBytes('MemTotal:  1 kB\n')).toBe(0);
});
