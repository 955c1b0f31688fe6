import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { SOCKET_PATH_BYTES_MAX } from '../ffi/unix-socket.ts';
import { detachStaleMount } from '../memory/fuse/fuse-mount.ts';

/** The mount of a run's RAM files, inside its directory. */
const RAM_DIRECTORY = 'ram';
/** What a socket's name has before its ending, at most. */
const SOCKET_NAME_MAX = 24;

/**
 * The directory of one run: its sockets and its mount, for this user alone. Its name carries the
 * process and that process's start, so that the next run can tell what a killed one left behind.
 */
export class RunDirectory implements Disposable {
  readonly path: string;

  private constructor(path: string) {
    this.path = path;
  }

  /**
   * Makes the directory of this run, after clearing away those of runs that are gone.
   * @throws Error where the place belongs to somebody else, or its path is too long for sockets in it.
   */
  static create(): RunDirectory {
    const base = baseDirectory();
    clearStale(base);
    const start = join(base, `${process.pid}-${startOf(process.pid)}-`);
    expectRoom(socketIn(`${start}XXXXXX`, 'x'.repeat(SOCKET_NAME_MAX)));
    return new RunDirectory(mkdtempSync(start));
  }

  /** A file of that name in the directories of this user's runs that go on, where there is one; newest last. */
  static liveWith(file: string): string[] {
    const base = baseDirectory();
    return readdirSync(base)
      .filter((name) => isLive(name))
      .map((name) => join(base, name, file))
      .map((path) => ({ path, made: lstatSync(path, { throwIfNoEntry: false })?.ctimeMs }))
      .filter(({ made }) => made !== undefined)
      .sort((a, b) => (a.made ?? 0) - (b.made ?? 0))
      .map(({ path }) => path);
  }

  get ram(): string {
    return join(this.path, RAM_DIRECTORY);
  }

  /** @returns where to put a socket; short enough for a socket's address whatever the name. */
  socket(name: string): string {
    return socketIn(this.path, name);
  }

  [Symbol.dispose](): void {
    clear(this.path);
  }
}

function socketIn(directory: string, name: string): string {
  return join(directory, `${name.slice(0, SOCKET_NAME_MAX)}.sock`);
}

function expectRoom(socket: string): void {
  const bytes = Buffer.byteLength(socket);
  if (bytes <= SOCKET_PATH_BYTES_MAX) return;
  throw new Error(
    `expected a directory for sockets whose paths have at most ${SOCKET_PATH_BYTES_MAX} bytes, got ` +
      `${bytes} for ${socket}: set XDG_RUNTIME_DIR to a shorter one`,
  );
}

/** XDG_RUNTIME_DIR where there is one, else a directory under /tmp that only we may have made. */
function baseDirectory(): string {
  const uid = process.getuid?.() ?? 0;
  const runtime = process.env.XDG_RUNTIME_DIR;
  const base = runtime ? join(runtime, 'sealbus') : join(tmpdir(), `sealbus-${uid}`);
  mkdirSync(base, { recursive: true, mode: 0o700 });
  const { uid: owner, mode } = lstatSync(base);
  if (owner !== uid || (mode & 0o077) !== 0) {
    throw new Error(
      `expected ${base} to be a directory of this user alone, got owner ${owner} and mode ` +
        `${(mode & 0o7777).toString(8)}: remove it, or set XDG_RUNTIME_DIR`,
    );
  }
  // The mount table, where stale mounts are looked up, has no symbolic links.
  return realpathSync(base);
}

function clearStale(base: string): void {
  for (const name of readdirSync(base)) {
    if (isLive(name) !== false) continue;
    try {
      clear(join(base, name));
    } catch {
      // Another run may be clearing it at this moment; if not, the next one tries again.
    }
  }
}

/** Whether the process of a run's directory goes on; undefined where it is no such directory's name. */
function isLive(name: string): boolean | undefined {
  const [, pid, start] = /^(\d+)-(\d+)-/.exec(name) ?? [];
  return pid === undefined ? undefined : startOf(Number(pid)) === start;
}

function clear(path: string): void {
  // Before anything looks inside: a dead mount answers no stat(2), and rm must not enter a live one.
  detachStaleMount(join(path, RAM_DIRECTORY));
  rmSync(path, { recursive: true, force: true });
}

/** Clock ticks from boot to the start of a process (proc_pid_stat(5), field 22), if it is there. */
function startOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name, field 2, may hold anything: count from behind its last parenthesis.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  } catch {
    return undefined;
  }
}
