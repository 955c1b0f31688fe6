/** A shell as a user of sealbus has it, in a directory of its own. */
import { spawn } from 'node:child_process';
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { stripVTControlCharacters } from 'node:util';

const sealbus = fileURLToPath(new URL('../../scripts/sealbus.mjs', import.meta.url));

/** What npm, vitest and sealbus have put into our environment; their configuration is the user's. */
const ours = [
  /^npm_(?!config_)/,
  /^npm_config_local_prefix$/,
  /^VITEST/,
  /^NODE_(ENV|OPTIONS|PATH)$/,
  /^SEALBUS_(?!DEBIAN_MIRROR$|QEMU$)/,
  /^(TEST|DEV|PROD|MODE|SSR)$/,
];

export interface ShellOutcome {
  readonly code: number | null;
  /** stdout and stderr as a terminal has them, without colours and the newline at the end. */
  readonly said: string;
}

export class UserShell implements Disposable {
  readonly #root = realpathSync(mkdtempSync(join(tmpdir(), 'sealbus-user-')));
  readonly #bin = join(this.#root, 'bin');
  #directory = join(this.#root, 'home');

  constructor() {
    mkdirSync(this.#directory);
    mkdirSync(this.#bin);
    const command = join(this.#bin, 'sealbus');
    writeFileSync(command, `#!/bin/sh\nexec node '${sealbus}' "$@"\n`);
    chmodSync(command, 0o755);
  }

  /** The directory that `cd` has led to. */
  get directory(): string {
    return this.#directory;
  }

  read(file: string): string {
    return readFileSync(join(this.#directory, file), 'utf8');
  }

  write(file: string, content: string): void {
    const path = join(this.#directory, file);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, content);
  }

  /** Runs a line in the directory to which the last `cd` has led. */
  async run(line: string, env: Readonly<Record<string, string>> = {}): Promise<ShellOutcome> {
    const into = /^cd (\S+)$/.exec(line)?.[1];
    if (into !== undefined) {
      this.#directory = realpathSync(join(this.#directory, into));
      return { code: 0, said: '' };
    }
    const child = spawn('sh', ['-c', `exec 2>&1\n${line}`], {
      cwd: this.#directory,
      env: { ...this.environment, ...env },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let said = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', resolve);
    });
    return { code, said: stripVTControlCharacters(said).trimEnd() };
  }

  [Symbol.dispose](): void {
    rmSync(this.#root, { recursive: true, force: true });
  }

  /** Of what its user starts: `sealbus` is on the PATH. */
  get environment(): Record<string, string | undefined> {
    const own = Object.entries(process.env).filter(
      ([name]) => !ours.some((pattern) => pattern.test(name)),
    );
    const path = (process.env.PATH ?? '')
      .split(delimiter)
      .filter((directory) => !directory.includes('node_modules'));
    return {
      ...Object.fromEntries(own),
      PATH: [this.#bin, ...path].join(delimiter),
      // What is in npm's cache was fetched for sealbus itself.
      npm_config_prefer_offline: 'true',
    };
  }
}
