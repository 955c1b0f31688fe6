/** `sealbus test`: whose vitest runs, what stdout gets, and that the exit code is honest. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest';
import { RunPlace, until } from './sealbus.ts';

const place = new RunPlace();
let project: string;
beforeEach(() => {
  project = mkdtempSync(join(tmpdir(), 'sealbus-project-'));
});
afterEach(() => {
  rmSync(project, { recursive: true, force: true });
  expect(place.left).toEqual([]);
});
afterAll(() => place[Symbol.dispose]());

function put(name: string, text: string): void {
  const path = join(project, name);
  mkdirSync(join(path, '..'), { recursive: true });
  writeFileSync(path, text);
}

function putTest(name: string, body: string): void {
  put(
    name,
    `import { expect, test } from 'vitest';\ntest('of ${name}', async () => {\n${body}\n});\n`,
  );
}

/** A vitest of the project's own, which says what it is called with. */
function putVitest(version: string): void {
  put('package.json', '{}');
  const manifest = { version, bin: { vitest: './own.mjs' } };
  put('node_modules/vitest/package.json', JSON.stringify(manifest));
  put('node_modules/vitest/own.mjs', "console.log('own', ...process.argv.slice(2));\n");
}

const run = (...args: string[]) => place.run(['test', ...args], { cwd: project });

const passing = 'expect(1 + 1).toBe(2);';
/** The second line, or what follows it, is not a line of a report. */
const failingAndLoud = `process.stdout.write('ok 99 - loud\\n');\nconsole.log('{"loud": true}');\nexpect(1).toBe(2);`;

describe('in a project that has no vitest of its own', () => {
  it('runs its tests, and ends with 0 where all held', async () => {
    putTest('a.test.ts', passing);
    putTest('b.test.ts', passing);
    const { code, stdout } = await run();
    expect(`${stdout}`).toMatch(/2 passed/);
    expect(`${stdout}`).not.toContain('\x1b');
    expect(code).toBe(0);
  });

  it('ends with 1 where one failed, and where there was none to run', async () => {
    putTest('a.test.ts', 'expect(1).toBe(2);');
    expect((await run()).code).toBe(1);
    const none = await run('no-such-file');
    expect(none.code).toBe(1);
    expect(`${none.stdout}${none.stderr}`).toMatch(/No test files found/);
  });

  it('ends with 1 where a file does not load, and where an error is outside any test', async () => {
    put('a.test.ts', "import './none.ts';\n");
    const unloaded = await run();
    expect(unloaded.code).toBe(1);
    expect(unloaded.stderr).toContain('none.ts');
    const late = "setTimeout(() => { throw new Error('too late'); }, 1);";
    putTest('a.test.ts', `${late} await new Promise((done) => setTimeout(done, 50));`);
    const unhandled = await run();
    expect(unhandled.code).toBe(1);
    expect(unhandled.stderr).toContain('too late');
  });

  it('waits for a guest to boot, in a process of its own, one file after the other', async () => {
    const stamps = join(project, 'stamps');
    const body = `const { appendFileSync } = await import('node:fs');
      appendFileSync(${JSON.stringify(stamps)}, 'in ' + process.pid + '\\n');
      await new Promise((done) => setTimeout(done, 300));
      appendFileSync(${JSON.stringify(stamps)}, 'out ' + process.pid + '\\n');
      expect(process.send).toBeTypeOf('function');`;
    putTest('a.test.ts', body);
    putTest('b.test.ts', body);
    // vitest's own limit for a test is 5 s.
    putTest('c.test.ts', 'await new Promise((done) => setTimeout(done, 5500));');
    const { code, stdout, stderr } = await run();
    expect(code, `${stdout}${stderr}`).toBe(0);
    const [first, second, third, fourth] = readFileSync(stamps, 'utf8').split('\n');
    expect([second, fourth]).toEqual([first?.replace('in', 'out'), third?.replace('in', 'out')]);
  });

  it('hands kernel, seed and place of artifacts on to the tests', async () => {
    putTest(
      'a.test.ts',
      `const { SEALBUS_KERNEL, SEALBUS_SEED, SEALBUS_ARTIFACTS } = process.env;
      expect([SEALBUS_KERNEL, SEALBUS_SEED]).toEqual(['trixie', '4294967295']);
      expect(SEALBUS_ARTIFACTS).toBe(${JSON.stringify(join(project, 'kept/here'))});`,
    );
    const flags = ['--kernel', 'trixie', '--seed', '0xffffffff', '--artifacts', 'kept/here'];
    const { code, stderr } = await run(...flags);
    expect(code, stderr).toBe(0);
  });

  it('gives each file to just one of the shards', async () => {
    const names = ['a', 'b', 'c', 'd', 'e'].map((name) => `${name}.test.ts`);
    for (const name of names) putTest(name, passing);
    const ran: string[] = [];
    for (const shard of ['1/3', '2/3', '3/3']) {
      const { code, stdout } = await run('--shard', shard, '--json');
      expect(code).toBe(0);
      const { testResults } = JSON.parse(`${stdout}`) as { testResults: { name: string }[] };
      ran.push(...testResults.map(({ name }) => name));
    }
    expect(ran.sort()).toEqual(names.map((name) => join(project, name)));
  });

  it('takes names of tests, and flags of vitest after --', async () => {
    put(
      'a.test.ts',
      `import { expect, test } from 'vitest';
      test('sums', () => {});
      test('fails', () => { expect(1).toBe(2); });
      test('comes later', () => {});`,
    );
    expect((await run('-t', 'sums')).code).toBe(0);
    const { code, stdout } = await run('--json', '--', '--bail', '1');
    expect(code).toBe(1);
    expect(JSON.parse(`${stdout}`)).toMatchObject({ numPassedTests: 1, numFailedTests: 1 });
  });
});

describe('a report for machines has stdout for itself', () => {
  beforeEach(() => {
    putTest('a.test.ts', failingAndLoud);
    putTest('b.test.ts', passing);
  });

  it.each([['--tap'], ['--reporter=tap']])('TAP by %s', async (flags) => {
    const { code, stdout, stderr } = await run(flags);
    expect(code).toBe(1);
    const lines = `${stdout}`.trimEnd().split('\n');
    expect(lines.slice(0, 2)).toEqual(['TAP version 13', '1..2']);
    const results = lines.filter((line) => /^(not )?ok /.test(line));
    expect(results.map((line) => line.replace(/ # .*/, ''))).toEqual([
      'not ok 1 - a.test.ts',
      'ok 2 - b.test.ts',
    ]);
    expect(`${stdout}`).toMatch(/^ +not ok 1 - of a\.test\.ts.*message: "expected 1 to be 2/ms);
    expect(`${stdout}`).toContain(join(project, 'a.test.ts:5:'));
    expect(`${stdout}`).not.toContain('loud');
    expect(stderr).toMatch(/ok 99 - loud.*expected 1 to be 2/s);
  });

  it('JSON', async () => {
    const { code, stdout, stderr } = await run('--json');
    expect(code).toBe(1);
    expect(JSON.parse(`${stdout}`)).toMatchObject({ numPassedTests: 1, numFailedTests: 1 });
    expect(stderr).toContain('expected 1 to be 2');
  });

  it('JUnit on stdout, or into a file beside another report', async () => {
    const junit = /<testcase [^>]*name="of a\.test\.ts".*<failure message="expected 1 to be 2/s;
    const alone = await run('--reporter', 'junit');
    expect(alone.code).toBe(1);
    expect(`${alone.stdout}`).toMatch(/^<\?xml /);
    expect(`${alone.stdout}`).toMatch(junit);
    const beside = await run('--tap', '--junit', 'out/junit.xml');
    expect(beside.code).toBe(1);
    expect(`${beside.stdout}`).toMatch(/^TAP version 13\n/);
    expect(readFileSync(join(project, 'out/junit.xml'), 'utf8')).toMatch(junit);
  });
});

describe('what a project has itself goes first', () => {
  it('its vitest', async () => {
    putVitest('5.99.0');
    const { code, stdout } = await run('some', '--shard', '1/2');
    expect(code).toBe(0);
    expect(`${stdout}`).toMatch(/^own run .*--shard=1\/2 some\n$/);
  });

  it('but none that sealbus/vitest does not fit', async () => {
    putVitest('2.1.9');
    const { code, stdout, stderr } = await run();
    expect([code, `${stdout}`]).toEqual([1, '']);
    expect(stderr).toMatch(
      /expected vitest 5 in .*, got 2\.1\.9\. Run 'npm install --save-dev vitest@5/,
    );
  });

  it('its configuration, its reporters too', async () => {
    put(
      'vitest.config.ts',
      "export default { test: { include: ['own/*.ts'], reporters: 'tap' } };\n",
    );
    putTest('own/one.ts', passing);
    putTest('a.test.ts', 'expect(1).toBe(2);');
    const { code, stdout, stderr } = await run();
    expect(code, stderr).toBe(0);
    expect(`${stdout}`).toMatch(/^TAP version 13\n1\.\.1\nok 1 - own\/one\.ts/);
  });
});

describe('refused before anything runs', () => {
  it.each([
    ...['-1', '0x', '1e3', '4294967296', '0x100000000'].map(
      (seed) => [`the seed ${seed}`, ['--seed', seed], /--seed.*seed of 32 bits/s] as const,
    ),
    ...['0/2', '3/2', '1', 'a/b', '1/0'].map(
      (shard) => [`the shard ${shard}`, ['--shard', shard], /--shard.*from 1\/N to N\/N/s] as const,
    ),
    ['two reports', ['--tap', '--json'], /one report on stdout, got tap and json/],
    ['an unknown report', ['--reporter', 'smoke'], /--reporter.*tap, json, junit/s],
    ['an unknown flag', ['--kernal', 'trixie'], /unknown option '--kernal'/],
    ['an unknown kernel', ['--kernel', 'hurd'], /expected the name of a kernel/],
    ['artifacts in a file', ['--artifacts', 'a.test.ts/kept'], /directory for artifacts.*ENOTDIR/],
  ] as readonly (readonly [string, readonly string[], RegExp])[])('%s', async (_n, args, words) => {
    putTest('a.test.ts', passing);
    const { code, stdout, stderr } = await run(...args);
    expect([code, `${stdout}`]).toEqual([1, '']);
    expect(stderr).toMatch(words);
    expect(stderr).not.toMatch(/^ +at .*\.ts:\d+/m);
  });
});

it.each(['SIGINT', 'SIGTERM'] as const)(
  '%s ends the tests, and no process is left',
  async (signal) => {
    putTest(
      'a.test.ts',
      "console.log('it waits');\nawait new Promise((done) => setTimeout(done, 100_000));",
    );
    const running = place.start(['test'], { cwd: project, stdin: 'open' });
    await running.said(/it waits/);
    running.child.kill(signal);
    const { code } = await running.ended;
    expect(code).toBe({ SIGINT: 130, SIGTERM: 143 }[signal]);
    await until(() => place.left.length === 0, 10_000, `nothing left, got ${place.left}`);
  },
);
