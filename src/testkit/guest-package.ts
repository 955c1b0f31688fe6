/** What a test brings into its guest, built and packed: modules, programs, files. */
import { join, resolve } from 'node:path';
import { kernelModule } from '../setup/kernel-module.ts';
import type { KernelPart } from '../setup/parts.ts';
import { type ArchiveEntry, writeArchive } from '../vm/cpio.ts';
import { type BuiltFile, buildGuestProgram, buildModules } from '../vm/driver-build.ts';
import {
  type DriverTestOptions,
  type GuestFile,
  type ModuleParameters,
  moduleSources,
} from './test-options.ts';

/** A module in the guest, at /lib/modules/<name>.ko. */
export interface PackedModule {
  readonly name: string;
  readonly load: boolean;
  readonly parameters: ModuleParameters;
}

export interface GuestPackage {
  /** A cpio archive to be unpacked at the guest's root; undefined where there is nothing. */
  readonly archive: Uint8Array | undefined;
  /** In the order of loading. */
  readonly modules: readonly PackedModule[];
  /** What the compiler said of sources that did build. */
  readonly warnings: string;
}

export interface PackageContext {
  readonly kernel: KernelPart;
  /** What paths of sources are relative to. */
  readonly directory: string;
  readonly signal: AbortSignal;
}

/** @throws SourceBuildError with its place in the source; VmError, SetupError */
export async function packGuest(
  options: DriverTestOptions,
  { kernel, directory, signal }: PackageContext,
): Promise<GuestPackage> {
  const built = await Promise.all(
    moduleSources(options).map(async (one) => {
      const { modules, warnings } = await buildModules(resolve(directory, one.source), kernel, {
        signal,
      });
      return { ...one, modules, warnings };
    }),
  );
  const programs = await Promise.all(
    (options.programs ?? []).map((one) => buildGuestProgram(resolve(directory, one), { signal })),
  );
  const kernelModules = (options.kernelModules ?? []).map((place): BuiltFile => {
    return { name: join(place).split('/').at(-1) ?? place, bytes: kernelModule(kernel, place) };
  });
  const entries: ArchiveEntry[] = [
    ...kernelModules.map(moduleEntry),
    ...built.flatMap(({ modules }) => modules.map(moduleEntry)),
    ...programs.map(({ name, bytes }) => fileEntry(`bin/${name}`, bytes, 0o755)),
    ...Object.entries(options.files ?? {}).map(guestFileEntry),
  ];
  return {
    archive: entries.length === 0 ? undefined : writeArchive(entries),
    modules: [
      ...kernelModules.map(({ name }) => ({ name, load: true, parameters: {} })),
      ...built.flatMap(({ modules, load = true, parameters = {} }) =>
        modules.map(({ name }) => ({ name, load, parameters })),
      ),
    ],
    warnings: [...built, ...programs]
      .map(({ warnings }) => warnings)
      .filter(Boolean)
      .join('\n'),
  };
}

function moduleEntry({ name, bytes }: BuiltFile): ArchiveEntry {
  return fileEntry(`lib/modules/${name}.ko`, bytes, 0o644);
}

function guestFileEntry([path, file]: [string, GuestFile]): ArchiveEntry {
  const plain = typeof file === 'string' || file instanceof Uint8Array;
  const { content, mode } = plain ? { content: file, mode: 0o644 } : file;
  return fileEntry(path.replace(/^\/+/, ''), content, mode);
}

function fileEntry(path: string, content: string | Uint8Array, mode: number): ArchiveEntry {
  const bytes = typeof content === 'string' ? Buffer.from(content) : content;
  return { kind: 'file', path, mode, bytes };
}
