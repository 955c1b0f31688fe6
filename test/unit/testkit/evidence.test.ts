import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  dropEvidence,
  evidenceDirectory,
  keepEvidence,
  repeatLine,
} from '../../../src/testkit/evidence.ts';
import { readTrace, Trace } from '../../../src/trace/index.ts';

let project: string;
beforeEach(() => {
  project = mkdtempSync(join(tmpdir(), 'sealbus-evidence-'));
  mkdirSync(join(project, 'test/deep'), { recursive: true });
  writeFileSync(join(project, 'package.json'), '{}');
});
afterEach(() => rmSync(project, { recursive: true }));

const place = (name: string) => ({ file: join(project, 'test/deep/adder.test.ts'), name });
const evidence = () => ({
  ...{ console: 'console', kernelLog: undefined, machineLog: '', qemu: 'qemu -x' },
  ...{ trace: new Trace(), seed: 0x2a },
});

describe('the evidence of a test', () => {
  it('lies beside package.json, in a directory that names the test', () => {
    const { directory, files } = keepEvidence(place('sums > a buffer'), evidence());
    expect(directory).toMatch(
      new RegExp(`^${project}/\\.sealbus/failures/adder-sums-a-buffer-[0-9a-f]{8}$`),
    );
    expect(readdirSync(directory).sort()).toEqual([...files].sort());
    // What there is nothing of has no file.
    expect([...files].sort()).toEqual(['console.log', 'qemu.sh', 'repeat.sh', 'trace.ndjson']);
    expect(readTrace(join(directory, 'trace.ndjson')).cut).toBe(false);
    expect(readFileSync(join(directory, 'repeat.sh'), 'utf8')).toContain('SEALBUS_SEED=0x0000002a');
  });

  it('replaces what an earlier run left, and goes when the test passes', () => {
    const { directory } = keepEvidence(place('a'), evidence());
    writeFileSync(join(directory, 'old'), '');
    keepEvidence(place('a'), evidence());
    expect(existsSync(join(directory, 'old'))).toBe(false);
    dropEvidence(place('a'));
    expect(existsSync(directory)).toBe(false);
  });

  it('is another’s where anything of the test’s place differs', () => {
    const places = [
      place('a b'),
      place('a > b'),
      { ...place('a b'), file: join(project, 'test/adder.test.ts') },
      { ...place('a b'), project: 'guest' },
    ];
    expect(new Set(places.map((one) => evidenceDirectory(one, {}))).size).toBe(4);
  });

  it('goes where the environment says', () => {
    const env = { SEALBUS_ARTIFACTS: 'out/failures' };
    expect(evidenceDirectory(place('a'), env)).toContain(`${project}/out/failures/adder-a-`);
  });

  it('is kept of the last 50 tests', () => {
    for (let n = 0; n < 53; n++) keepEvidence(place(`test ${n}`), evidence());
    expect(readdirSync(join(project, '.sealbus/failures'))).toHaveLength(50);
    expect(existsSync(evidenceDirectory(place('test 52'), {}))).toBe(true);
  });
});

describe('the line that repeats a test', () => {
  const words = (line: string) => {
    const print = 'for word; do printf "%s\\0" "$word"; done';
    const script = `npx() { ${print}; }; ${line}`;
    return spawnSync('sh', ['-c', script], { encoding: 'utf8' }).stdout.split('\0').slice(0, -1);
  };

  it('matches that test and no other, through any shell', () => {
    const name = fc
      .string({ minLength: 1, maxLength: 30 })
      .map((text) => text.replaceAll('\0', ''))
      .filter((text) => text !== '');
    fc.assert(
      fc.property(name, (text) => {
        const [run, tests, , flag, pattern = ''] = words(repeatLine(place(text), 1, {}));
        expect([run, tests, flag]).toEqual(['vitest', 'run', '-t']);
        const matches = new RegExp(pattern);
        expect(matches.test(text)).toBe(true);
        expect(matches.test(`${text}x`)).toBe(false);
        expect(matches.test(`x${text}`)).toBe(false);
      }),
      { numRuns: 30 },
    );
  });
});
