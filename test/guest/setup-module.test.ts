/** A module of our own, built out of tree with the host's gcc, loads into the kernel of set-up. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ensureParts } from '../../src/setup/ensure-parts.ts';
import type { Parts } from '../../src/setup/parts.ts';

const source = `#include <linux/module.h>
static int __init hello_init(void) { pr_alert("hello from a module\\n"); return 0; }
static void __exit hello_exit(void) { }
module_init(hello_init);
module_exit(hello_exit);
MODULE_LICENSE("GPL");
`;

const init = `#!/busybox sh
/busybox insmod /hello.ko && echo "inserted: $?"
/busybox poweroff -f
`;

let parts: Parts;
let directory: string;
beforeAll(async () => {
  parts = await ensureParts();
  directory = mkdtempSync(join(tmpdir(), 'sealbus-module-'));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** cpio of the "newc" format, as Documentation/driver-api/early-userspace/buffer-format.rst has it. */
function archive(files: Readonly<Record<string, Buffer>>): Buffer {
  const padding = (length: number) => Buffer.alloc(-length & 3);
  const entry = (name: string, content: Buffer) => {
    const fields = [0, 0o100755, 0, 0, 1, 0, content.length, 0, 0, 0, 0, name.length + 1, 0];
    const numbers = fields.map((field) => field.toString(16).padStart(8, '0'));
    const head = Buffer.from(`070701${numbers.join('')}${name}\0`);
    return [head, padding(head.length), content, padding(content.length)];
  };
  const entries = Object.entries(files).flatMap(([name, content]) => entry(name, content));
  return Buffer.concat([...entries, ...entry('TRAILER!!!', Buffer.alloc(0))]);
}

test('it builds, and the ELF kernel boots through PVH and inserts it', () => {
  writeFileSync(join(directory, 'hello.c'), source);
  writeFileSync(join(directory, 'Makefile'), 'obj-m := hello.o\n');
  const { directory: headers, variables } = parts.kernel.build;
  const settings = Object.entries(variables).map(([name, value]) => `${name}=${value}`);
  const built = spawnSync('make', ['-C', headers, `M=${directory}`, ...settings, 'modules'], {
    encoding: 'utf8',
  });
  expect(built.status, built.stdout + built.stderr).toBe(0);

  const module = readFileSync(join(directory, 'hello.ko'));
  expect(module.includes(`vermagic=${parts.kernel.release} `)).toBe(true);

  const initrd = join(directory, 'initrd');
  const busybox = readFileSync(parts.busybox.path);
  writeFileSync(initrd, archive({ init: Buffer.from(init), busybox, 'hello.ko': module }));
  const [program, ...args] = parts.qemu.command;
  const guest = spawnSync(
    program,
    [
      ...args,
      ...['-nodefaults', '-display', 'none', '-no-reboot', '-accel', 'tcg', '-m', '256'],
      ...['-serial', 'stdio', '-kernel', parts.kernel.vmlinux, '-initrd', initrd],
      ...['-append', 'console=ttyS0 quiet panic=-1'],
    ],
    { env: { ...process.env, ...parts.qemu.env }, encoding: 'utf8', timeout: 120_000 },
  );
  expect(guest.stdout).toContain('hello from a module');
  expect(guest.stdout).toContain('inserted: 0');
});
