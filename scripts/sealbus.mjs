#!/usr/bin/env node
// The `sealbus` command: runs src/cli/main.ts with a Node that can, whichever Node started it.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const modules = join(root, 'node_modules');

// A fresh clone, an install that was cut short, or one of another package-lock.json.
if (!isInstalled()) {
  const { status } = spawnSync(process.execPath, [join(root, 'scripts/bootstrap.mjs')], {
    stdio: ['ignore', process.stderr, 'inherit'],
  });
  if (status !== 0) process.exit(status ?? 1);
}

const node = isNewEnough(process.versions.node) ? process.execPath : join(modules, '.bin/node');
if (!existsSync(node)) {
  process.stderr.write(
    `sealbus: expected Node 22.18 or later, got ${process.version} and none at ${node}. ` +
      `Run 'node scripts/bootstrap.mjs' in ${root}.\n`,
  );
  process.exit(1);
}
run(node, [...process.execArgv, join(root, 'src/cli/main.ts'), ...process.argv.slice(2)]);

/** Whether bootstrap.mjs has nothing to do: it would take a Node's start to say so itself. */
function isInstalled() {
  const lock = readFileSync(join(root, 'package-lock.json'));
  try {
    const stamp = readFileSync(join(modules, '.sealbus-lock'), 'utf8');
    return stamp.trim() === createHash('sha256').update(lock).digest('hex');
  } catch {
    return false;
  }
}

function isNewEnough(/** @type {string} */ version) {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  return major > 22 || (major === 22 && minor >= 18);
}

function run(/** @type {string} */ program, /** @type {string[]} */ args) {
  const child = spawn(program, args, { stdio: 'inherit' });
  // A terminal sends these to the whole group: the child has its own already.
  for (const signal of /** @type {const} */ (['SIGINT', 'SIGQUIT'])) {
    process.on(signal, () => {
      if (!process.stdin.isTTY) child.kill(signal);
    });
  }
  for (const signal of /** @type {const} */ (['SIGTERM', 'SIGHUP', 'SIGUSR2'])) {
    process.on(signal, () => child.kill(signal));
  }
  child.once('error', (error) => {
    process.stderr.write(`sealbus: ${program} does not run: ${error.message}\n`);
    process.exitCode = 1;
  });
  child.once('close', (code, signal) => {
    process.exitCode = code ?? 128 + (signal ? constants.signals[signal] : 0);
  });
}
