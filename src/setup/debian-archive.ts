/**
 * Debian's archive seen through a private APT: own state, own cache, own sources, nothing installed,
 * the host's proxies and certificates. APT checks the signature of the release against Debian's
 * keyring, and every file's size and hash against the release.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { archiveAddress } from './archive-address.ts';
import { CommandError, runCommand } from './command.ts';
import type { SetupProgress } from './progress.ts';
import { SetupError } from './setup-error.ts';

const keyrings = [
  '/usr/share/keyrings/debian-archive-keyring.pgp',
  '/usr/share/keyrings/debian-archive-keyring.gpg',
];

export interface ArchiveOptions {
  /** An empty directory to work in; its owner removes it. */
  readonly directory: string;
  /** Suites with component main, such as `trixie`. */
  readonly suites: readonly string[];
  /** Those whose source index is wanted too. */
  readonly sourceSuites?: readonly string[];
  /** APT preferences(5). */
  readonly preferences?: string;
  readonly progress: SetupProgress;
  readonly signal?: AbortSignal | undefined;
}

type PartOfEvent = Parameters<SetupProgress>[0]['part'];

export class DebianArchive {
  readonly #options: ArchiveOptions;
  readonly #configuration: string;
  #address = '';
  #keyring = '';

  private constructor(options: ArchiveOptions) {
    this.#options = options;
    this.#configuration = join(options.directory, 'apt.conf');
  }

  /** Fetches the index. @throws SetupError: no archive, no network, a signature that does not hold */
  static async open(options: ArchiveOptions): Promise<DebianArchive> {
    const archive = new DebianArchive(options);
    options.progress({ part: 'archive', phase: 'finding' });
    const address = await archiveAddress({ signal: options.signal });
    const keyring = keyrings.find((path) => existsSync(path));
    if (!keyring) {
      throw new SetupError({
        expected: `Debian's archive keyring at ${keyrings.join(' or ')}`,
        got: 'none',
        remedy: 'Run (as root): apt-get install debian-archive-keyring',
      });
    }
    archive.#write(address, keyring);
    try {
      await archive.#update();
    } catch (error) {
      if (!saysUnknownKey(error)) throw error;
      archive.#write(address, await archive.#newerKeyring(error));
      await archive.#update();
    }
    return archive;
  }

  /** As a line of sources.list names it. */
  get address(): string {
    return this.#address;
  }

  /** The file whose keys verified the releases; it may lie in the working directory. */
  get keyring(): string {
    return this.#keyring;
  }

  /** The version of a binary package that would be installed. @throws SetupError where there is none */
  async candidate(name: string): Promise<string> {
    const { stdout } = await this.#apt('apt-cache', ['policy', name]);
    const version = /^ {2}Candidate: (\S+)$/m.exec(stdout)?.[1];
    if (version && version !== '(none)') return version;
    throw this.#absent(`package ${name}`);
  }

  /** Names of binary packages that begin so, in no order. */
  async packageNames(prefix: string): Promise<readonly string[]> {
    const { stdout } = await this.#apt('apt-cache', ['pkgnames', prefix]);
    return stdout.split('\n').filter((name) => name !== '');
  }

  /** What a package depends on: names, in the order of its Depends field. */
  async dependencies(name: string): Promise<readonly string[]> {
    const { stdout } = await this.#apt('apt-cache', ['depends', name]);
    return [...stdout.matchAll(/^ [ |]Depends: (\S+)$/gm)].map((match) => match[1]!);
  }

  /** The version of a source package in a suite. @throws SetupError where there is none */
  async sourceVersion(name: string): Promise<string> {
    const { stdout } = await this.#apt('apt-cache', ['showsrc', '--only-source', name]);
    const version = /^Version: (\S+)$/m.exec(stdout)?.[1];
    if (version) return version;
    throw this.#absent(`source package ${name}`);
  }

  /** Downloads these packages and all that they depend on. @returns the .deb files */
  async downloadClosure(
    part: PartOfEvent,
    names: readonly string[],
    into: string,
  ): Promise<string[]> {
    mkdirSync(join(into, 'partial'), { recursive: true });
    const place = ['-o', `Dir::Cache::archives=${into}`];
    await this.#fetch(part, [...place, '-y', 'install', '--download-only', ...names], into);
    return packagesIn(into);
  }

  /** Downloads these packages alone. @returns the .deb files */
  async download(part: PartOfEvent, names: readonly string[], into: string): Promise<string[]> {
    mkdirSync(into, { recursive: true });
    await this.#fetch(part, ['download', ...names], into);
    return packagesIn(into);
  }

  /** Downloads a source package's upstream tarball alone. @returns its path */
  async downloadTarball(part: PartOfEvent, source: string, into: string): Promise<string> {
    mkdirSync(into, { recursive: true });
    await this.#fetch(part, ['source', '--download-only', '--tar-only', source], into);
    const tarball = readdirSync(into).find((name) => /\.orig\.tar\.\w+$/.test(name));
    if (tarball) return join(into, tarball);
    throw this.#absent(`the upstream tarball of ${source}`);
  }

  #write(address: string, keyring: string): void {
    const { directory, suites, sourceSuites = [], preferences = '' } = this.#options;
    this.#address = address;
    this.#keyring = keyring;
    for (const name of ['state/lists/partial', 'cache/archives/partial']) {
      mkdirSync(join(directory, name), { recursive: true });
    }
    for (const name of ['apt.conf.d', 'sources.list.d', 'preferences.d']) {
      mkdirSync(join(directory, 'etc', name), { recursive: true });
    }
    const line = (type: string, suite: string) =>
      `${type} [arch=amd64 signed-by=${keyring}] ${address} ${suite} main\n`;
    const sources = [
      ...suites.map((suite) => line('deb', suite)),
      ...sourceSuites.map((suite) => line('deb-src', suite)),
    ];
    writeFileSync(join(directory, 'status'), '');
    writeFileSync(join(directory, 'etc/sources.list'), sources.join(''));
    writeFileSync(join(directory, 'etc/preferences'), preferences);
    writeFileSync(this.#configuration, configuration(directory));
  }

  async #update(): Promise<void> {
    this.#options.progress({ part: 'archive', phase: 'fetching the index' });
    await this.#fetch(
      'archive',
      ['-o', 'APT::Update::Error-Mode=any', 'update'],
      this.#options.directory,
    );
  }

  async #fetch(part: PartOfEvent, args: readonly string[], cwd: string): Promise<void> {
    const phase = part === 'archive' ? 'fetching the index' : 'downloading';
    const { progress, signal } = this.#options;
    progress({ part, phase });
    await runCommand('apt-get', ['-q', '-o', 'APT::Status-Fd=3', ...args], {
      cwd,
      env: this.#environment(),
      timeout_ms: 30 * 60_000,
      signal,
      onStatusLine: (line) => {
        const percent = /^dlstatus:\d+:([\d.]+):/.exec(line)?.[1];
        if (percent) progress({ part, phase, done: Number(percent), total: 100 });
      },
    });
  }

  #apt(program: string, args: readonly string[]) {
    const { signal } = this.#options;
    return runCommand(program, args, { env: this.#environment(), timeout_ms: 60_000, signal });
  }

  #environment(): Record<string, string> {
    return { APT_CONFIG: this.#configuration, DEBIAN_FRONTEND: 'noninteractive' };
  }

  /** The host's own archive, which the host's keys do verify, has a keyring with the newer keys. */
  async #newerKeyring(cause: unknown): Promise<string> {
    const { directory, signal, progress } = this.#options;
    progress({ part: 'archive', phase: 'fetching a newer keyring' });
    const into = join(directory, 'keyring');
    mkdirSync(into);
    try {
      await runCommand('apt-get', ['-q', 'download', 'debian-archive-keyring'], {
        cwd: into,
        timeout_ms: 120_000,
        signal,
      });
      const [file] = packagesIn(into);
      await runCommand('dpkg-deb', ['-x', file!, into], { timeout_ms: 60_000, signal });
    } catch (error) {
      signal?.throwIfAborted();
      throw new SetupError({
        expected: `keys that verify ${this.#options.suites.join(', ')}`,
        got: "a host keyring without them, and no newer one in the host's archive",
        remedy: 'Run (as root): apt-get update && apt-get install debian-archive-keyring',
        cause: error ?? cause,
      });
    }
    const found = keyrings.map((path) => join(into, path)).find((path) => existsSync(path));
    if (found) return found;
    throw this.#absent('a keyring in debian-archive-keyring');
  }

  #absent(what: string): SetupError {
    return new SetupError({
      expected: `${what} in ${this.#options.suites.join(', ')}`,
      got: 'nothing of that name in the index',
      remedy: 'Check that the mirror is complete, or name another in SEALBUS_DEBIAN_MIRROR.',
    });
  }
}

/** As gpgv (APT 2) and sqv (APT 3) put it. */
function saysUnknownKey(error: unknown): boolean {
  return error instanceof CommandError && /NO_PUBKEY|Missing key/.test(error.message);
}

function packagesIn(directory: string): string[] {
  const names = readdirSync(directory).filter((name) => name.endsWith('.deb'));
  return names.map((name) => join(directory, name));
}

function configuration(directory: string): string {
  // APT reads it after the host's own apt.conf.d, whose proxies, certificates and logins stay.
  return `Dir::State ${quoted(join(directory, 'state'))};
Dir::State::status ${quoted(join(directory, 'status'))};
Dir::State::extended_states ${quoted(join(directory, 'state/extended_states'))};
Dir::Cache ${quoted(join(directory, 'cache'))};
Dir::Etc ${quoted(join(directory, 'etc'))};
Dir::Etc::sourcelist "sources.list";
Dir::Etc::sourceparts "sources.list.d";
Dir::Etc::preferences "preferences";
Dir::Etc::preferencesparts "preferences.d";
Dir::Log ${quoted(join(directory, 'log'))};
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
#clear APT::Default-Release;
#clear APT::Architectures;
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Acquire::PDiffs "false";
Acquire::Retries "3";
Acquire::http::Timeout "60";
Acquire::https::Timeout "60";
`;
}

function quoted(path: string): string {
  if (/["\\\n]/.test(path)) {
    throw new SetupError({
      expected: 'a cache folder that APT can be told of',
      got: JSON.stringify(path),
      remedy: 'Set XDG_CACHE_HOME to a path without quotes and backslashes.',
    });
  }
  return `"${path}"`;
}

/** VERSION_CODENAME of the host, such as `bookworm`. */
export function hostCodename(
  osRelease = readFileSync('/etc/os-release', 'utf8'),
): string | undefined {
  return /^VERSION_CODENAME="?([a-z]+)"?$/m.exec(osRelease)?.[1];
}
