/**
 * Guests that have booted once, saved as they came to their init with none of the caller's devices:
 * the next ones go on from there, each with memory of its own, and find its devices by a scan of the
 * bus. Nothing of a vfio-user device is in the state.
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

/** A guest as it is to be saved, and what makes of it one that goes on. */
export interface SavedForm {
  /** All that the state depends on. */
  readonly dependsOn: readonly string[];
  /** Boots it. Disposing of the result ends all that was started. */
  boot(options: BootOptions): Promise<BootedForm>;
  /** For the guest's shell, just before it is saved. */
  readonly beforeSaving?: string;
  /** For the guest's shell, once it goes on, before it looks for devices. */
  readonly afterLoading?: string;
}

export interface BootedForm extends AsyncDisposable {
  readonly vm: VirtualMachine;
}

export type BootOptions = Pick<VirtualMachineOptions, 'bootTimeoutMs' | 'onConsole' | 'signal'>;

/** Without devices. */
export function bareForm(qemu: QemuPart, description: Description): SavedForm {
  const bare = withoutDevices(description);
  return {
    dependsOn: dependsOn(qemu, bare),
    async boot(options) {
      const vm = await VirtualMachine.start({ qemu, description: bare, ...options });
      return { vm, [Symbol.asyncDispose]: () => vm.stop() };
    },
  };
}

/**
 * Whether such a guest can go on from a saved one: it boots our image, by TCG. A guest on KVM boots in
 * the time that loading takes; one with root ports has switched off those that were empty.
 */
export function canResume({ accelerator, boot, rootPorts = 0 }: Description): boolean {
  return accelerator === 'tcg' && boot.kind === 'kernel' && rootPorts === 0;
}

/**
 * The state of such a guest, in a file; boots one where there is none yet.
 * @throws as VirtualMachine.start; VmError where it cannot be saved
 */
export async function savedGuest(
  form: SavedForm,
  { signal, bootTimeoutMs, onConsole }: BootOptions,
  cache = guestCache(),
): Promise<string> {
  const key = contentKey([], form.dependsOn);
  const file = join(cache, `${name}-${key}`);
  if (!existsSync(file)) {
    await mkdir(cache, { recursive: true });
    // One boots it; others wait, for less than booting as well would take them.
    using _lock = await lockFile(join(cache, `${name}.lock`), signal ? { signal } : {});
    const options = {
      ...(signal === undefined ? {} : { signal }),
      ...(bootTimeoutMs === undefined ? {} : { bootTimeoutMs }),
      ...(onConsole === undefined ? {} : { onConsole }),
    };
    const save = async (temporary: string) => {
      await using booted = await form.boot(options);
      const { vm } = booted;
      if (form.beforeSaving !== undefined) await vm.check(['sh', '-c', form.beforeSaving]);
      const state = join(temporary, 'state');
      await saveState(vm.qmp, state);
      return state;
    };
    await made(cache, name, key, '', save, keptStates);
  }
  touch(file);
  return file;
}

/** Of a state that did not load: the next guest boots. */
export function dropSavedGuest(file: string): void {
  rmSync(file, { force: true });
}

/** How memory is held on the host is nothing that the guest sees. */
function withoutDevices(description: Description): Description {
  const { bytes } = description.memory;
  return { ...description, memory: { kind: 'memfd', bytes }, devices: [] };
}

/**
 * What the state of a guest depends on, whatever its devices; the image's path has the hash of what is
 * in it.
 */
export function dependsOn(qemu: QemuPart, description: Description): readonly string[] {
  const channel = { kind: 'stdio' } as const;
  const bare = { ...withoutDevices(description), console: channel, agent: channel };
  const programs = qemu.command.filter((word) => word.startsWith('/')).map(identity);
  const kernel = description.boot.kind === 'kernel' ? identity(description.boot.image) : '';
  return [qemu.version, ...qemuCommand(qemu, bare), ...programs, kernel];
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
