/**
 * A Debian system in a directory, by mmdebstrap in namespaces of its own: nothing of it reaches the
 * host, and all of it ends when it is asked to. Who is not root needs subordinate uids, and gets a
 * directory that belongs to them: only {@link inNamespace} reads it whole, or removes it.
 */
import { readdirSync } from 'node:fs';
import { chmod, copyFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CommandError, type CommandOptions, runCommand } from '../setup/command.ts';
import { saysDiskFull } from '../setup/setup-error.ts';
import { ImageError, noRoom } from './image-error.ts';

/** What makes a system of the essential packages: an init, a kernel with its initramfs, a login. */
const packages = [
  ...['systemd', 'systemd-sysv', 'udev', 'dbus', 'login', 'passwd', 'kmod', 'procps'],
  ...['linux-image-cloud-amd64', 'initramfs-tools', 'zstd', 'e2fsprogs', 'iproute2'],
  'debian-archive-keyring',
];

/** Man pages, documents and translations are left out, now and at later installations. */
const dpkgOptions = [
  ...['path-exclude=/usr/share/man/*', 'path-exclude=/usr/share/info/*'],
  ...['path-exclude=/usr/share/doc/*', 'path-include=/usr/share/doc/*/copyright'],
  'path-exclude=/usr/share/locale/*',
  // A making that is cut short is thrown away whole.
  'force-unsafe-io',
  // initramfs-tools' list of modules is there before the package.
  'force-confold',
];

/** Debian Policy §5.6.1. */
const packagePattern = /^[a-z0-9][a-z0-9+.-]+$/;

/** @throws ImageError where one cannot be a package's name */
export function checkPackageNames(names: readonly string[]): void {
  const wrong = names.find((name) => !packagePattern.test(name));
  if (wrong === undefined) return;
  throw new ImageError(`expected the name of a Debian package, got ${JSON.stringify(wrong)}`);
}

export interface Archive {
  /** As a line of sources.list names it. */
  readonly address: string;
  /** A keyring that verifies its release. */
  readonly keys: Uint8Array;
}

export interface DebianRootOptions {
  readonly archive: Archive;
  readonly hostname: string;
  /** PARTUUID of the root file system. */
  readonly rootId: string;
  readonly grubConfiguration: string;
  /** Empty: no password at all. */
  readonly rootPassword: string;
  /** Beside those that make a system. */
  readonly packages: readonly string[];
  readonly onPhase: (words: string) => void;
  readonly signal: AbortSignal;
}

export interface DebianRoot extends AsyncDisposable {
  readonly path: string;
  /** As uname -r prints it. */
  readonly kernelRelease: string;
}

/** mmdebstrap's words, and ours. */
const phases: readonly [RegExp, string][] = [
  [/running apt-get update/, "fetching Debian's index"],
  [/downloading packages/, 'downloading packages'],
  [/installing essential/, 'installing the essential packages'],
  [/installing remaining/, 'installing the other packages'],
];

/** @throws ImageError, SetupError; the signal's reason. Then nothing is left. */
export async function makeDebianRoot(options: DebianRootOptions): Promise<DebianRoot> {
  const { signal } = options;
  const place = await mkdtemp(join(tmpdir(), 'sealbus-image-'));
  try {
    await chmod(place, 0o711); // root of the namespace is somebody else, and must pass
    const path = join(place, 'root');
    const keyring = join(place, 'archive-keyring.gpg');
    await writeFile(keyring, options.archive.keys);
    await chmod(keyring, 0o644);
    const hooks = await Promise.all(
      ['before-packages.sh', 'after-packages.sh'].map(async (name) => {
        const file = join(place, name);
        await copyFile(fileURLToPath(new URL(`hooks/${name}`, import.meta.url)), file);
        await chmod(file, 0o755);
        return file;
      }),
    );
    const [before, after] = hooks;
    await runMmdebstrap(
      [
        ...['--mode=unshare', '--variant=apt', '--format=directory', '--architectures=amd64'],
        ...(await acquireOptions(signal)).map((line) => `--aptopt=${line}`),
        ...dpkgOptions.map((option) => `--dpkgopt=${option}`),
        `--include=${[...packages, ...options.packages].join(',')}`,
        ...[`--essential-hook=${before}`, `--customize-hook=${after}`],
        ...['trixie', path, `deb [signed-by=${keyring}] ${options.archive.address} trixie main`],
      ],
      options,
      place,
    );
    const kernelRelease = newestKernel(path);
    return {
      path,
      kernelRelease,
      [Symbol.asyncDispose]: () => removePlace(place),
    };
  } catch (error) {
    await removePlace(place);
    throw error;
  }
}

/** Runs a program as the owner of what {@link makeDebianRoot} made. @throws CommandError */
export async function inNamespace(
  command: readonly [string, ...string[]],
  options: CommandOptions,
): Promise<void> {
  const [program, ...args] = isRoot() ? command : ['mmdebstrap', '--unshare-helper', ...command];
  await runCommand(program!, args, options);
}

async function runMmdebstrap(
  args: readonly string[],
  options: DebianRootOptions,
  place: string,
): Promise<void> {
  try {
    await runCommand('mmdebstrap', args, {
      timeout_ms: 30 * 60_000,
      signal: options.signal,
      env: {
        TMPDIR: place,
        SEALBUS_HOSTNAME: options.hostname,
        SEALBUS_ROOT_ID: options.rootId,
        SEALBUS_GRUB_CONFIGURATION: options.grubConfiguration,
        SEALBUS_ROOT_PASSWORD: options.rootPassword,
        SEALBUS_ARCHIVE: withoutLogin(options.archive.address),
      },
      onErrorLine: (line) => {
        const phase = phases.find(([pattern]) => pattern.test(line))?.[1];
        if (phase !== undefined) options.onPhase(phase);
      },
    });
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw explained(error);
  }
}

/** What a reader can do about the failures that are likely; the tool's own words else. */
function explained(error: CommandError): Error {
  const absent = /Unable to locate package (\S+)/.exec(error.output)?.[1];
  if (absent !== undefined) {
    return new ImageError(`expected packages of Debian trixie, got ${absent}, which it has not`);
  }
  if (/newuidmap|subuid|subgid|unshare/i.test(error.output.slice(-4000)) && !isRoot()) {
    return new ImageError(
      'expected user namespaces with subordinate uids, got none. As root, give this user some ' +
        '(usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER), or make the ' +
        `image as root. mmdebstrap said:\n${error.output.trim().split('\n').slice(-4).join('\n')}`,
    );
  }
  if (saysDiskFull(error)) return noRoom(tmpdir());
  return error;
}

/** How the host's own APT reaches an archive (proxies, certificates, logins): the same way here. */
async function acquireOptions(signal: AbortSignal): Promise<string[]> {
  const { stdout } = await runCommand('apt-config', ['dump'], { timeout_ms: 30_000, signal });
  const set = /^Acquire::(?:https?|ftp|tor)::\S+ ".+";$/;
  return [
    ...stdout.split('\n').filter((line) => set.test(line)),
    'Acquire::Retries "3";',
    'Dir::Etc::netrc "/etc/apt/auth.conf";',
    'Dir::Etc::netrcparts "/etc/apt/auth.conf.d";',
  ];
}

function newestKernel(path: string): string {
  const names = readdirSync(join(path, 'boot'));
  const release = names.find((name) => name.startsWith('vmlinuz-'))?.slice('vmlinuz-'.length);
  if (release !== undefined && names.includes(`initrd.img-${release}`)) return release;
  throw new ImageError(`expected a kernel and its initramfs in /boot, got ${names.join(', ')}`);
}

function withoutLogin(address: string): string {
  return address.replace(/^(\w[\w+.-]*:\/\/)[^/@]*@/, '$1');
}

async function removePlace(place: string): Promise<void> {
  const options = { timeout_ms: 120_000 };
  // Not the caller's signal: it is there to end what this clears up after.
  await inNamespace(['rm', '-rf', '--', join(place, 'root')], options).catch(() => {});
  await rm(place, { recursive: true, force: true });
}

function isRoot(): boolean {
  return process.geteuid?.() === 0;
}
