/** The root file system in an image, looked into without mounting it. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'vitest';
import { findProgram } from '../../src/setup/host-programs.ts';

/** Where a file system's tools find partition 3, by the table that is in the image. */
export function rootPartition(image: string): string {
  const table = JSON.parse(
    execFileSync(program('sfdisk'), ['--json', image], { encoding: 'utf8' }),
  ) as { partitiontable: { sectorsize: number; partitions: { start: number }[] } };
  const { sectorsize, partitions } = table.partitiontable;
  return `${image}?offset=${(partitions[2]?.start ?? 0) * sectorsize}`;
}

/** e2fsck finds nothing, and no journal to replay: it was unmounted. */
export function checkRootFileSystem(image: string): void {
  const { status, stdout, stderr } = spawnSync(
    program('e2fsck'),
    ['-f', '-n', rootPartition(image)],
    { encoding: 'utf8' },
  );
  expect(status, `${stdout}${stderr}`).toBe(0);
  expect(`${stdout}${stderr}`).not.toMatch(/recover|journal/i);
}

/** What debugfs(8) says to a request, such as `cat /etc/fstab`. */
export function askRoot(image: string, request: string): string {
  const args = ['-R', request, rootPartition(image)];
  return execFileSync(program('debugfs'), args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
}

/** Adds arguments to the kernel's, in GRUB's own configuration. */
export function changeBootArguments(image: string, more: string): void {
  const path = '/boot/grub/grub.cfg';
  const before = askRoot(image, `cat ${path}`);
  const after = before.replace(/^( *linux .*)$/m, `$1 ${more}`);
  if (after === before) throw new Error(`expected a kernel in ${path}, got: ${before}`);
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-grub-'));
  try {
    writeFileSync(join(directory, 'grub.cfg'), after);
    writeFileSync(
      join(directory, 'requests'),
      `rm ${path}\nwrite ${join(directory, 'grub.cfg')} ${path}\n`,
    );
    const args = ['-w', '-f', join(directory, 'requests'), rootPartition(image)];
    execFileSync(program('debugfs'), args, { stdio: 'ignore' });
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
  expect(askRoot(image, `cat ${path}`)).toBe(after);
}

function program(name: string): string {
  const found = findProgram(name);
  if (found === undefined) throw new Error(`expected ${name} on this host, got none`);
  return found;
}
