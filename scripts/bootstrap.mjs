// Brings node_modules in step with package-lock.json before anything else runs. Plain JavaScript
// for Node 18 and later: the Node that sealbus itself needs may be what is being installed.
// Everything it says goes to stderr; where there is nothing to do it says nothing.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const lockFile = join(root, 'package-lock.json');
const modules = join(root, 'node_modules');
const installed = join(modules, '.package-lock.json');
const stamp = join(modules, '.sealbus-lock');

const say = (/** @type {string} */ words) => process.stderr.write(`set-up: ${words}\n`);

process.exitCode = await main();

async function main() {
  const [major = 0] = process.versions.node.split('.').map(Number);
  if (major < 18) {
    say(
      `expected Node 18 or later, got ${process.version}. Install Debian's nodejs, or a newer one.`,
    );
    return 1;
  }
  const wanted = hashOf(lockFile);
  if (isStamped(wanted)) return 0;
  const lock = await takeLock();
  if (isStamped(wanted)) return 0; // another run did it meanwhile
  if (matchesLock()) {
    writeFileSync(stamp, wanted);
    return 0;
  }
  say('installing npm packages');
  const began = Date.now();
  // Without these two a run that is cut short, even in the removal, can never look finished.
  rmSync(stamp, { force: true });
  rmSync(installed, { force: true });
  rmSync(modules, { recursive: true, force: true });
  const code = await npmInstall(lock);
  if (code !== 0) {
    say(`expected npm to succeed, got exit code ${code}. See its words above, then run it again.`);
    return code;
  }
  if (!matchesLock()) {
    say(
      'expected npm to install what package-lock.json says, got something else. Run npm install.',
    );
    return 1;
  }
  writeFileSync(stamp, wanted);
  say(`npm packages ready (${((Date.now() - began) / 1000).toFixed(1)} s)`);
  return 0;
}

function hashOf(/** @type {string} */ path) {
  return `${createHash('sha256').update(readFileSync(path)).digest('hex')}\n`;
}

function isStamped(/** @type {string} */ wanted) {
  return existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted;
}

/** Whether an npm install by hand left just what the lock file says. */
function matchesLock() {
  if (!existsSync(installed)) return false;
  try {
    const want = JSON.parse(readFileSync(lockFile, 'utf8')).packages;
    const have = JSON.parse(readFileSync(installed, 'utf8')).packages;
    return Object.entries(want).every(([path, { version, integrity, optional }]) => {
      if (path === '') return true;
      const there = have[path];
      if (!there) return optional === true; // of another platform
      if (there.version !== version || there.integrity !== integrity) return false;
      return existsSync(join(root, path, 'package.json'));
    });
  } catch {
    return false; // npm's note is damaged: install again
  }
}

/**
 * flock(1) locks the open file that it shares with us, so the lock is ours when it has ended, and
 * the kernel's to drop when we and npm are gone, however we go.
 * @returns the descriptor, to be handed on to npm
 */
async function takeLock() {
  const directory = join(root, 'out');
  mkdirSync(directory, { recursive: true });
  const fd = openSync(join(directory, 'bootstrap.lock'), 'a');
  const flock = (/** @type {string[]} */ ...args) =>
    new Promise((resolve, reject) => {
      const child = spawn('flock', [...args, '3'], { stdio: ['ignore', 'ignore', 'inherit', fd] });
      child.once('error', reject);
      child.once('close', resolve);
    });
  try {
    if ((await flock('-n')) === 0) return fd;
    say('waiting for another run that installs npm packages');
    await flock();
  } catch (error) {
    // Only where util-linux is missing, which Debian calls essential.
    say(`flock(1) does not run (${error}): do not start a second run beside this one`);
  }
  return fd;
}

/**
 * Installs what the lock file says, versions and hashes, into a folder that is not there yet, and
 * leaves the lock file alone. (`npm ci` would do the same, but refuses a lock file that lacks the
 * packages of other platforms, which not every registry carries.)
 * @returns npm's exit code
 */
function npmInstall(/** @type {number} */ lock) {
  const { npm_execpath: npm, npm_node_execpath: node = process.execPath } = process.env;
  const args = [
    'install',
    '--no-save',
    '--include=dev',
    '--no-audit',
    '--no-fund',
    '--no-progress',
    '--loglevel=error',
  ];
  const [program, ...before] = npm ? [node, npm] : ['npm'];
  const child = spawn(program, [...before, ...args], {
    cwd: root,
    stdio: ['ignore', process.stderr, process.stderr, lock],
  });
  const clock = setInterval(() => say('still installing npm packages'), 15_000);
  for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
    process.on(signal, () => child.kill(signal));
  }
  return new Promise((resolve) => {
    child.once('error', (error) => {
      clearInterval(clock);
      say(`npm does not run: ${error.message}`);
      resolve(127);
    });
    child.once('close', (code, signal) => {
      clearInterval(clock);
      resolve(code ?? (signal === 'SIGINT' ? 130 : 143));
    });
  });
}
