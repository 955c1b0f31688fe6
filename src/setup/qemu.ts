/** A QEMU with `vfio-user-pci`: the host's own where it is new enough, else Debian's, unpacked. */
import {
  copyFileSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { cp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from './command.ts';
import { findProgram } from './host-programs.ts';
import { copyLibraries, loaderCommand } from './library-closure.ts';
import { findMade, makePart, type PartRecipe } from './part-cache.ts';
import type { QemuPart } from './parts.ts';
import { type Making, unpackPackages } from './recipe.ts';
import { SetupError } from './setup-error.ts';
import { isAtLeast } from './version.ts';

export const qemuRecipe: PartRecipe = { part: 'qemu', recipe: 1, needsBytes: 320 * 2 ** 20 };

/** `vfio-user-pci` came with 10.1; class codes were wrong before 10.1.1. */
export const qemuVersionMin = '10.1.1';

export const qemuVariable = 'SEALBUS_QEMU';
const programName = 'qemu-system-x86_64';

/** APT preferences that take QEMU and its firmware, and nothing else, from the backports. */
export const qemuPreferences = `Package: src:qemu src:seabios src:ipxe
Pin: release n=trixie-backports
Pin-Priority: 900
`;

/** Firmware of PC machines and of devices that may be plugged into one. */
const firmwarePattern = /^(efi-.*\.rom|pxe-.*\.rom|kvmvapic|linuxboot|multiboot|pvh|qboot|vgabios)/;

interface Probe {
  readonly path: string;
  readonly size: number;
  readonly modified_ms: number;
  readonly version: string;
  /** Why it does not do; absent where it does. */
  readonly unfit?: string;
}

/**
 * The QEMU to use, as far as it is there. A host's QEMU is asked once, and again when it changes.
 * @throws SetupError where SEALBUS_QEMU names one that does not do
 */
export async function findQemu(
  root: string,
  signal?: AbortSignal,
  env: Readonly<Record<string, string | undefined>> = process.env,
): Promise<QemuPart | undefined> {
  const named = env[qemuVariable];
  const path = named || findProgram(programName);
  if (path) {
    const probe = await probed(root, path, signal);
    if (!probe.unfit) {
      return { version: probe.version, source: 'host', command: [path], env: {} };
    }
    if (named) {
      throw new SetupError({
        expected: `${qemuVariable} to name a QEMU ${qemuVersionMin} or later with vfio-user-pci`,
        got: `${path}: ${probe.unfit}`,
        remedy: `Name another, or unset ${qemuVariable} to let set-up get one.`,
      });
    }
  }
  return findMade<QemuPart>(root, qemuRecipe)?.record;
}

/** Debian's QEMU from the backports, with its libraries and firmware, and nothing else of its tree. */
export async function makeQemu(making: Making): Promise<QemuPart> {
  const { progress, signal } = making;
  const archive = await making.archive();
  const debianVersion = await archive.candidate('qemu-system-x86');
  return await makePart(
    making.root,
    qemuRecipe,
    debianVersion,
    async (temporary, final) => {
      const debs = join(temporary, 'deb');
      const tree = join(temporary, 'tree');
      const files = await archive.downloadClosure('qemu', ['qemu-system-x86'], debs);
      await unpackPackages(making, 'qemu', files, tree);

      progress({ part: 'qemu', phase: 'keeping what it needs' });
      const program = join('bin', programName);
      mkdirSync(join(temporary, 'bin'));
      mkdirSync(join(temporary, 'modules')); // stays empty: the host's modules are never loaded
      copyFileSync(join(tree, 'usr', program), join(temporary, program));
      await copyLibraries(tree, [join(tree, 'usr', program)], join(temporary, 'lib'), signal);
      await cp(join(tree, 'usr/share/qemu'), join(temporary, 'firmware'), {
        recursive: true,
        dereference: true,
        filter: (from) =>
          statSync(from, { throwIfNoEntry: false })?.isFile() !== true
            ? from.endsWith('/share/qemu')
            : firmwarePattern.test(from.slice(from.lastIndexOf('/') + 1)),
      });
      await cp(join(tree, 'usr/share/seabios'), join(temporary, 'firmware'), { recursive: true });
      await rm(tree, { recursive: true });
      await rm(debs, { recursive: true });

      progress({ part: 'qemu', phase: 'trying it' });
      const record = (directory: string, version: string): QemuPart => ({
        version,
        source: 'debian',
        command: [
          ...loaderCommand(join(directory, 'lib'), join(directory, program)),
          ...['-L', join(directory, 'firmware')],
        ] as [string, ...string[]],
        env: { QEMU_MODULE_DIR: join(directory, 'modules') },
      });
      const here = record(temporary, '');
      const { version, unfit } = await ask(here.command, here.env, signal);
      if (unfit) {
        throw new SetupError({
          expected: `Debian's QEMU ${debianVersion} to run here with vfio-user-pci`,
          got: unfit,
          remedy: `Install a QEMU ${qemuVersionMin} or later and name it in ${qemuVariable}.`,
        });
      }
      return {
        record: record(final, version),
        files: [program, 'lib/ld-linux-x86-64.so.2', 'lib/libc.so.6', 'firmware/bios-256k.bin'].map(
          (name) => join(final, name),
        ),
      };
    },
    signal,
  );
}

async function probed(root: string, path: string, signal?: AbortSignal): Promise<Probe> {
  const file = statSync(path, { throwIfNoEntry: false });
  if (!file?.isFile()) {
    return { path, size: 0, modified_ms: 0, version: '', unfit: 'no file of that name' };
  }
  const note = join(root, 'host-qemu.json');
  const known = readNote(note);
  if (
    known?.path === realpathSync(path) &&
    known.size === file.size &&
    known.modified_ms === file.mtimeMs
  ) {
    return known;
  }
  const probe: Probe = {
    path: realpathSync(path),
    size: file.size,
    modified_ms: file.mtimeMs,
    ...(await ask([path], {}, signal)),
  };
  // One that gave no version may lack a library or have run out of time: it may do next time.
  if (probe.version === '') return probe;
  try {
    writeFileSync(note, JSON.stringify(probe));
  } catch {
    // no cache folder yet, or a full disk: it is asked again next time
  }
  return probe;
}

function readNote(path: string): Probe | undefined {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as Probe;
  } catch {
    return undefined;
  }
}

async function ask(
  command: readonly [string, ...string[]],
  env: Readonly<Record<string, string>>,
  signal?: AbortSignal,
): Promise<{ version: string; unfit?: string }> {
  const [program, ...args] = command;
  const options = { env, timeout_ms: 30_000, signal, allowFailure: true };
  try {
    const answer = await runCommand(program, [...args, '--version'], options);
    const version = /version (\d+(?:\.\d+)*)/.exec(answer.stdout)?.[1];
    if (!version)
      return { version: '', unfit: `no version in its answer: ${answer.stderr.trim()}` };
    if (!isAtLeast(version, qemuVersionMin)) return { version, unfit: `version ${version}` };
    // `-device help` would load every module; asking for one device does not.
    const device = await runCommand(program, [...args, '-device', 'vfio-user-pci,help'], options);
    if (device.code === 0 && /\bsocket\b/.test(device.stdout)) return { version };
    return { version, unfit: `version ${version} without the device vfio-user-pci` };
  } catch (error) {
    signal?.throwIfAborted();
    return { version: '', unfit: error instanceof Error ? error.message : String(error) };
  }
}
