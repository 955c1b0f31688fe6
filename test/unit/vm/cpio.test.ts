import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type ArchiveEntry, writeArchive } from '../../../src/vm/cpio.ts';

/** A reader of the format of its own, from the kernel's buffer-format.rst. */
function read(archive: Buffer) {
  const members: { name: string; mode: number; rdev: [number, number]; content: Buffer }[] = [];
  for (let at = 0; ; ) {
    expect(archive.toString('latin1', at, at + 6)).toBe('070701');
    const field = (n: number) =>
      Number.parseInt(archive.toString('latin1', at + 6 + 8 * n, at + 14 + 8 * n), 16);
    const [mode, size, nameSize] = [field(1), field(6), field(11)];
    const name = archive.toString('utf8', at + 110, at + 110 + nameSize - 1);
    expect(archive[at + 110 + nameSize - 1]).toBe(0);
    const start = Math.ceil((at + 110 + nameSize) / 4) * 4;
    if (name === 'TRAILER!!!') return members;
    const content = archive.subarray(start, start + size);
    members.push({ name, mode, rdev: [field(9), field(10)], content });
    at = Math.ceil((start + size) / 4) * 4;
  }
}

const name = fc.stringMatching(/^[a-z][a-z0-9.]{0,11}$/).filter((text) => !/^\.+$/.test(text));

describe('the initramfs archive', () => {
  it('holds each file with its bytes, at every length and alignment', () => {
    const file = fc.tuple(fc.array(name, { minLength: 1, maxLength: 3 }), fc.uint8Array());
    fc.assert(
      fc.property(fc.array(file, { maxLength: 8 }), (files) => {
        // Below a directory of its own each, so that no name is a file and a directory.
        const entries = files.map(([parts, bytes], i): ArchiveEntry => {
          return { kind: 'file', path: [`d${i}`, ...parts].join('/'), bytes };
        });
        const found = read(writeArchive(entries)).filter(({ mode }) => mode >> 12 === 0o10);
        expect(found.map((member) => [member.name, [...member.content]])).toEqual(
          entries.map((entry) => [entry.path, [...(entry.kind === 'file' ? entry.bytes : [])]]),
        );
      }),
    );
  });

  it('puts each directory before what lies in it, once', () => {
    const names = read(
      writeArchive([
        { kind: 'file', path: 'a/b/c', bytes: new Uint8Array() },
        { kind: 'symlink', path: 'a/b/d', target: 'c' },
      ]),
    ).map((member) => member.name);
    expect(names).toEqual(['a', 'a/b', 'a/b/c', 'a/b/d']);
  });

  it('gives links their target, and devices their numbers', () => {
    const [link, node] = read(
      writeArchive([
        { kind: 'symlink', path: 'sh', target: 'bin/busybox' },
        { kind: 'character-device', path: 'console', major: 5, minor: 1 },
      ]),
    );
    expect(link).toMatchObject({ mode: 0o120777, content: Buffer.from('bin/busybox') });
    expect(node).toMatchObject({ mode: 0o020600, rdev: [5, 1] });
  });

  it.each(['/etc/passwd', 'a/../b', 'a//b', './a', ''])('refuses the path %j', (path) => {
    expect(() => writeArchive([{ kind: 'directory', path }])).toThrow(/relative to the root/);
  });

  it('refuses a path that is named twice', () => {
    const entry: ArchiveEntry = { kind: 'directory', path: 'dev' };
    expect(() => writeArchive([entry, entry])).toThrow(/dev twice/);
  });
});
