/** Authors' modules and programs, built by the host's compiler against the guest's kernel. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ensureParts } from '../../../src/setup/ensure-parts.ts';
import type { KernelPart } from '../../../src/setup/parts.ts';
import { buildGuestProgram, buildModules, SourceBuildError } from '../../../src/vm/driver-build.ts';

let kernel: KernelPart;
let place: string;
let cache: string;
beforeAll(async () => {
  ({ kernel } = await ensureParts());
  place = mkdtempSync(join(tmpdir(), 'sealbus-build-'));
  cache = join(place, 'cache');
});
afterAll(() => rmSync(place, { recursive: true }));

const put = (path: string, content: string) => {
  const file = join(place, path);
  mkdirSync(join(file, '..'), { recursive: true });
  writeFileSync(file, content);
  return file;
};
const module = (body: string) => `#include <linux/module.h>
static int __init start(void)
{
${body}
	return 0;
}
module_init(start);
MODULE_DESCRIPTION("test");
MODULE_LICENSE("GPL");
`;
const inCache = () => readdirSync(cache).sort();
const problem = async (work: Promise<unknown>): Promise<SourceBuildError> => {
  const error = await work.catch((thrown: unknown) => thrown);
  expect(error).toBeInstanceOf(SourceBuildError);
  return error as SourceBuildError;
};

describe('a module', () => {
  it('of one C file uses the headers beside it, and is for the kernel’s release', async () => {
    put('one/one.h', '#define WORDS "sealbus says"\n');
    const source = put('one/one.c', `#include "one.h"\n${module('\tpr_info(WORDS "\\n");')}`);
    const { modules, warnings } = await buildModules(source, kernel, { cache });
    expect(modules.map(({ name }) => name)).toEqual(['one']);
    expect(warnings).toBe('');
    const text = Buffer.from(modules[0]?.bytes ?? []).toString('latin1');
    expect(text).toContain('sealbus says');
    expect(text).toContain(`vermagic=${kernel.release} `);
  });

  it('is built once for its content, and anew when a header changes', async () => {
    const source = join(place, 'one/one.c');
    const before = inCache();
    await buildModules(source, kernel, { cache });
    expect(inCache()).toEqual(before);
    put('one/one.h', '#define WORDS "sealbus says more"\n');
    const { modules } = await buildModules(source, kernel, { cache });
    expect(Buffer.from(modules[0]?.bytes ?? []).toString('latin1')).toContain('says more');
    expect(inCache().length).toBeGreaterThan(before.length);
  });

  it('tells its warnings, from the cache as well, and calls its file by its name', async () => {
    const source = put('warned.c', module('\tint unused;\n\tWARN_ON(system_state == -1);'));
    const first = await buildModules(source, kernel, { cache });
    expect(first.warnings).toMatch(/^\S+warned\.c:4:\d+: warning: unused variable 'unused'/m);
    expect(first.warnings).not.toMatch(/make\[|CC \[M\]|\.making/);
    const again = await buildModules(source, kernel, { cache });
    expect(again).toEqual(first);
    const text = Buffer.from(first.modules[0]?.bytes ?? []).toString('latin1');
    expect(text).toContain('\0warned.c\0');
    expect(text).not.toContain(cache);
  });

  it('of a folder is what its Kbuild says, several in their order', async () => {
    put('two/Kbuild', 'obj-m += second.o first.o\nfirst-y := sub/part.o start.o\n');
    put('two/second.c', module(''));
    put('two/start.c', 'int part(void);\n'.concat(module('\tpart();')));
    put('two/sub/part.c', 'int part(void);\nint part(void) { return 0; }\n');
    put('two/left.ko', 'what a build has left');
    const { modules } = await buildModules(join(place, 'two'), kernel, { cache });
    expect(modules.map(({ name }) => name)).toEqual(['second', 'first']);
    expect(readdirSync(join(place, 'two')).sort()).toEqual([
      ...['Kbuild', 'left.ko', 'second.c', 'start.c', 'sub'],
    ]);
  });
});

describe('a source with a mistake', () => {
  it('is named with its line, where the author has it', async () => {
    const source = put('wrong.c', module('\tno_such_function();'));
    const { message, place: at } = await problem(buildModules(source, kernel, { cache }));
    expect(message).toContain('wrong.c to build, got 1 error');
    expect(message).toContain("implicit declaration of function 'no_such_function'");
    expect(message).not.toContain('.making');
    expect(at).toEqual({ file: source, line: 4, column: 9 });
    expect(inCache().filter((name) => name.startsWith('.making'))).toEqual([]);
  });

  it('has no line where it is a symbol that the kernel does not have', async () => {
    const source = put('lost.c', `void no_such(void);\n${module('\tno_such();')}`);
    const { message, place: at } = await problem(buildModules(source, kernel, { cache }));
    expect(message).toMatch(/modpost: .*no_such.* undefined/);
    expect(at).toBeUndefined();
  });

  it('or none at all', async () => {
    const missing = join(place, 'nothing.c');
    await expect(buildModules(missing, kernel, { cache })).rejects.toThrow(
      /nothing\.c, got nothing/,
    );
    mkdirSync(join(place, 'empty'));
    await expect(buildModules(join(place, 'empty'), kernel, { cache })).rejects.toThrow(/Kbuild/);
    put('none/Kbuild', '# nothing\n');
    await expect(buildModules(join(place, 'none'), kernel, { cache })).rejects.toThrow(/obj-m/);
  });
});

describe('a program for the guest', () => {
  it('is static, so that it runs here as there', async () => {
    const source = put(
      'hello.c',
      '#include <stdio.h>\nint main(void) { return puts("hello") < 0; }\n',
    );
    const { name, bytes, warnings } = await buildGuestProgram(source, { cache });
    expect([name, warnings]).toEqual(['hello', '']);
    const file = join(place, 'hello');
    writeFileSync(file, bytes, { mode: 0o755 });
    expect(statSync(file).size).toBe(bytes.length);
    expect(spawnSync(file, { encoding: 'utf8' }).stdout).toBe('hello\n');
  });

  it('with a mistake is named with its line', async () => {
    const source = put('broken.c', 'int main(void) { return nothing; }\n');
    const { message, place: at } = await problem(buildGuestProgram(source, { cache }));
    expect(message).toContain("'nothing' undeclared");
    expect(at).toMatchObject({ file: source, line: 1 });
  });
});
