/** The edu driver's sources in a folder of their own, as they are or with one bug planted. */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { guestSources } from '../../../src/vm/guest-build.ts';
import type { PlantedBug } from './planted-bugs.ts';

export interface EduSources extends Disposable {
  /** With a Kbuild. */
  readonly folder: string;
}

/** @throws Error where the sources have changed, so that the bug has no place in them any more */
export function eduSources(bug: PlantedBug | undefined): EduSources {
  const folder = mkdtempSync(join(tmpdir(), 'sealbus-edu-'));
  const from = join(guestSources, 'edu');
  for (const name of readdirSync(from)) {
    if (name === 'Kbuild' || /^sealbus_edu.*\.[ch]$/.test(name)) {
      cpSync(join(from, name), join(folder, name));
    }
  }
  if (bug !== undefined) plant(join(folder, bug.file), bug);
  return { folder, [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }) };
}

function plant(path: string, { file, good, bad }: PlantedBug): void {
  const parts = readFileSync(path, 'utf8').split(good);
  if (parts.length !== 2) {
    throw new Error(`expected once in qemu/edu/${file}, got ${parts.length - 1} times:\n${good}`);
  }
  writeFileSync(path, parts.join(bad));
}
