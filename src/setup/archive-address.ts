/** Where this host gets Debian from: its own APT configuration says, or an environment variable. */
import { type CommandOptions, runCommand } from './command.ts';
import { SetupError } from './setup-error.ts';

export const mirrorVariable = 'SEALBUS_DEBIAN_MIRROR';

const fields = ['SITE', 'RELEASE', 'COMPONENT', 'CREATED_BY', 'ORIGIN'] as const;
const format = fields.map((field) => `$(${field})`).join('|');

/** Names of releases and of suites, but not of updates to another (`bookworm-updates`). */
const releasePattern = /^[a-z]+$/;

/** It goes into a line of sources.list: a space or a bracket would change what that line means. */
const addressPattern = /^[a-z][a-z0-9+.-]*:[^\s[\]#"']+$/i;

/**
 * Picks the archive that carries Debian's main component out of `apt-get indextargets`, one target
 * a line as {@link format} has it: not security, not another vendor's, not a disc. Fields that APT
 * does not know yet (no index was ever fetched) come unexpanded.
 */
export function pickArchive(indexTargets: string): string | undefined {
  const sites = indexTargets
    .split('\n')
    .map((line) => line.split('|'))
    .filter((values) => values.length === fields.length)
    .map(([site, release, component, createdBy, origin]) => ({
      site: site!.replace(/\/+$/, ''),
      release: release!,
      component: component!,
      createdBy: createdBy!,
      origin: origin!,
    }))
    .filter(({ createdBy, component }) => createdBy === 'Packages' && component === 'main')
    .filter(({ origin }) => origin === 'Debian' || origin.startsWith('$('))
    .filter(({ site }) => addressPattern.test(site) && !site.startsWith('cdrom:'))
    .filter(({ site, release }) => !/security/.test(site) && releasePattern.test(release));
  // What says that it is Debian goes before what says nothing.
  return (sites.find(({ origin }) => origin === 'Debian') ?? sites[0])?.site;
}

/** @throws SetupError where the variable is not an address APT takes, or the host names no archive */
export async function archiveAddress(
  options: Pick<CommandOptions, 'signal'>,
  env: Readonly<Record<string, string | undefined>> = process.env,
): Promise<string> {
  const given = env[mirrorVariable];
  if (given) return checkedAddress(given);
  const ask = async (...more: string[]) =>
    (
      await runCommand('apt-get', ['indextargets', ...more, '--format', format], {
        ...options,
        timeout_ms: 30_000,
        allowFailure: true,
      })
    ).stdout;
  const found = pickArchive(await ask()) ?? pickArchive(await ask('--no-release-info'));
  if (found) return found;
  throw new SetupError({
    expected: "the address of a Debian archive in the host's APT configuration",
    got: 'none that carries a Debian release with component main',
    remedy: `Set ${mirrorVariable} to the address of a Debian mirror (as in a 'deb' line of sources.list).`,
  });
}

function checkedAddress(address: string): string {
  if (addressPattern.test(address)) return address.replace(/\/+$/, '');
  throw new SetupError({
    expected: `an address such as scheme://host/path in ${mirrorVariable}`,
    got: JSON.stringify(address),
    remedy: "Write it as in a 'deb' line of sources.list.",
  });
}
