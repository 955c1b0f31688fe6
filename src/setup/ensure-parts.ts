import { findBusybox, makeBusybox } from './busybox.ts';
import { DebianArchive } from './debian-archive.ts';
import { neededPrograms } from './host-programs.ts';
import { ensurePrograms } from './install-programs.ts';
import {
  findKernel,
  kernelPartName,
  kernelPreferences,
  kernelSuites,
  makeKernel,
} from './kernel.ts';
import { type KernelChoice, kernelOf } from './kernel-choice.ts';
import { findLibvfioUser, makeLibvfioUser } from './libvfio-user.ts';
import { cacheRoot, inTemporary, makeCacheRoot, removeLeftovers } from './part-cache.ts';
import type { PartName, Parts } from './parts.ts';
import type { SetupProgress } from './progress.ts';
import { findQemu, makeQemu, qemuPreferences } from './qemu.ts';
import type { Making } from './recipe.ts';
import { SetupError } from './setup-error.ts';

export interface EnsureOptions {
  readonly progress?: SetupProgress;
  /** Without one, set-up itself minds SIGINT, SIGTERM and SIGHUP while it works. */
  readonly signal?: AbortSignal;
  /** Fail rather than fetch anything. */
  readonly offline?: boolean;
  /** As `--kernel` takes it; else SEALBUS_KERNEL says it, else it is `trixie`. */
  readonly kernel?: string;
}

const indexBytes = 160 * 2 ** 20;

/**
 * Finds every part, and makes those that are missing: fetched from Debian's archive, checked, put
 * into the cache. Where nothing is missing it looks at a few files and that is all. One process
 * does the work at a time; others wait for it and then find it done.
 * @throws SetupError with what to do; the signal's reason. What was finished stays, nothing else.
 */
export async function ensureParts(options: EnsureOptions = {}): Promise<Parts> {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new SetupError({
      expected: 'Linux on x86-64',
      got: `${process.platform} on ${process.arch}`,
      remedy: 'Run it there, or in a virtual machine.',
    });
  }
  const root = cacheRoot();
  const kernel = kernelOf(process.env, options.kernel);
  const found = await foundParts(root, kernel, options.signal);
  if (isComplete(found)) return found;
  if (options.offline) {
    throw new SetupError({
      expected: `all parts under ${root}`,
      got: `no ${missing(found, kernel).join(', no ')}`,
      remedy: "Run 'npm run setup' with the network at hand.",
    });
  }
  const { progress = () => {} } = options;
  return options.signal
    ? await makeMissing(root, kernel, progress, options.signal)
    : await withInterruption((signal) => makeMissing(root, kernel, progress, signal));
}

type FoundParts = { -readonly [Name in keyof Parts]: Parts[Name] | undefined };

/** What is there already. @throws SetupError where something that was named does not do */
export async function foundParts(
  root: string,
  kernel: KernelChoice,
  signal?: AbortSignal,
  env: Readonly<Record<string, string | undefined>> = process.env,
): Promise<FoundParts> {
  return {
    qemu: await findQemu(root, signal, env),
    libvfioUser: findLibvfioUser(root),
    kernel: findKernel(root, kernel),
    busybox: findBusybox(root),
  };
}

function isComplete(parts: FoundParts): parts is Parts {
  return Object.values(parts).every((part) => part !== undefined);
}

function missing(parts: FoundParts, kernel: KernelChoice): PartName[] {
  const names: [PartName, unknown][] = [
    ['qemu', parts.qemu],
    ['libvfio-user', parts.libvfioUser],
    [kernelPartName(kernel), parts.kernel],
    ['busybox', parts.busybox],
  ];
  return names.filter(([, part]) => part === undefined).map(([name]) => name);
}

async function makeMissing(
  root: string,
  kernel: KernelChoice,
  progress: SetupProgress,
  signal: AbortSignal,
): Promise<Parts> {
  makeCacheRoot(root);
  const { lockFile } = await import('./file-lock.ts');
  const lock = await lockFile(`${root}/set-up.lock`, {
    signal,
    onWait: (holder) =>
      progress({ part: 'host', phase: `waiting for another set-up (process ${holder ?? '?'})` }),
  });
  try {
    return await makeMissingAlone(root, kernel, progress, signal);
  } finally {
    lock[Symbol.dispose]();
  }
}

/** No other process does so at the same time. */
async function makeMissingAlone(
  root: string,
  kernel: KernelChoice,
  progress: SetupProgress,
  signal: AbortSignal,
): Promise<Parts> {
  await removeLeftovers(root);
  const parts = await foundParts(root, kernel, signal); // another run may have made them meanwhile
  if (isComplete(parts)) return parts;
  await ensurePrograms(neededPrograms, 'what set-up fetches and compiles with', {
    progress,
    signal,
  });

  return await inTemporary(root, 'index', indexBytes, async (directory) => {
    let opened: Promise<DebianArchive> | undefined;
    const making: Making = {
      root,
      progress,
      signal,
      archive: () => {
        opened ??= DebianArchive.open({
          directory,
          suites: [
            ...new Set([
              ...(parts.qemu ? ['trixie'] : ['trixie', 'trixie-backports']),
              ...(parts.kernel ? [] : kernelSuites(kernel)),
            ]),
          ],
          sourceSuites: parts.libvfioUser ? [] : ['trixie'],
          preferences: `${qemuPreferences}\n${kernelPreferences(kernel)}`,
          progress,
          signal,
        });
        return opened;
      },
    };
    const made = async <Part>(
      part: PartName,
      there: Part | undefined,
      make: (making: Making) => Promise<Part>,
    ): Promise<Part> => {
      const result = there ?? (await make(making));
      if (there === undefined) progress({ part, phase: 'ready' });
      return result;
    };
    return {
      busybox: await made('busybox', parts.busybox, makeBusybox),
      kernel: await made(kernelPartName(kernel), parts.kernel, (making) =>
        makeKernel(making, kernel),
      ),
      qemu: await made('qemu', parts.qemu, makeQemu),
      libvfioUser: await made('libvfio-user', parts.libvfioUser, makeLibvfioUser),
    };
  });
}

/** Runs `work` so that Ctrl-C or a kill first ends what it runs and removes what is half-made. */
async function withInterruption<Result>(
  work: (signal: AbortSignal) => Promise<Result>,
): Promise<Result> {
  const controller = new AbortController();
  let caught: NodeJS.Signals | undefined;
  const onSignal = (name: NodeJS.Signals) => {
    caught ??= name;
    controller.abort(new DOMException(`interrupted by ${name}`, 'AbortError'));
  };
  const names = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const name of names) process.on(name, onSignal);
  try {
    return await work(controller.signal);
  } finally {
    for (const name of names) process.off(name, onSignal);
    if (caught) process.kill(process.pid, caught); // as if it had not been caught
  }
}
