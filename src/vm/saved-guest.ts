/**
 * Guests that have booted once, saved as they came to their init with none of the caller's devices:
 * the next ones go on from there, each with memory of its own, and find its devices by a scan of the
 * bus. A vfio-user device itself can neither be saved nor migrated.
 */
import { existsSync, rmSync, statSync, utimesSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { lockFile } from '../setup/file-lock.ts';
import type { QemuPart } from '../setup/parts.ts';
import { contentKey, guestCache, made } from './guest-build.ts';
import { saveState } from './machine-state.ts';
import { qemuCommand } from './qemu-command.ts';
import { VirtualMachine, type VirtualMachineOptions } from './virtual-machine.ts';

type Description = VirtualMachineOptions['description'];

/** Files are sparse, 70 MB or so each. */
const keptStates = 6;
const name = 'saved-guest';

/**
 * Whether such a guest can go on from a saved one: it boots our image by TCG (a guest on KVM boots in
 * the time that loading takes), and no table of its firmware names the devices.
 */
export function canBeSaved({ accelerator, boot, acpiTables = [] }: Description): boolean {
  return accelerator === 'tcg' && boot.kind === 'kernel' && acpiTables.length === 0;
}

/**
 * The state of such a guest without its devices, in a file; boots one where there is none yet.
 * @throws as VirtualMachine.start; VmError where it cannot be saved
 */
export async function savedGuest(
  qemu: QemuPart,
  description: Description,
  options: Pick<VirtualMachineOptions, 'bootTimeoutMs' | 'signal'> & { cache?: string } = {},
): Promise<string> {
  const { cache = guestCache(), bootTimeoutMs, signal } = options;
  const start = {
    ...(bootTimeoutMs === undefined ? {} : { bootTimeoutMs }),
    ...(signal === undefined ? {} : { signal }),
  };
  const { memory } = description;
  // How memory is held on the host is nothing that the guest sees.
  const bare = {
    ...description,
    memory: { kind: 'memfd', bytes: memory.bytes } as const,
    devices: [],
  };
  const key = keyOf(qemu, bare);
  const file = join(cache, `${name}-${key}`);
  if (!existsSync(file)) {
    await mkdir(cache, { recursive: true });
    // One boots it; others wait, for less than booting as well would take them.
    using _lock = await lockFile(join(cache, `${name}.lock`), signal ? { signal } : {});
    await made(
      cache,
      name,
      key,
      '',
      async (temporary) => {
        await using vm = await VirtualMachine.start({ qemu, description: bare, ...start });
        const state = join(temporary, 'state');
        await saveState(vm.qmp, state);
        return state;
      },
      keptStates,
    );
  }
  touch(file);
  return file;
}

/** Of a state that did not load: the next guest boots. */
export function dropSavedGuest(file: string): void {
  rmSync(file, { force: true });
}

/** All that the state depends on; the image's path has the hash of what is in it. */
function keyOf(qemu: QemuPart, description: Description): string {
  const channel = { kind: 'stdio' } as const;
  const command = qemuCommand(qemu, { ...description, console: channel, agent: channel });
  const programs = qemu.command.filter((word) => word.startsWith('/')).map(identity);
  const kernel = description.boot.kind === 'kernel' ? identity(description.boot.image) : '';
  return contentKey([], [qemu.version, ...command, ...programs, kernel]);
}

function identity(path: string): string {
  const status = statSync(path, { throwIfNoEntry: false });
  return `${path} ${status?.size} ${status?.mtimeMs}`;
}

/** The oldest are removed: what is used is young. */
function touch(file: string): void {
  const now = new Date();
  try {
    utimesSync(file, now, now);
  } catch {
    // Another process has just removed it: loading it says so.
  }
}
