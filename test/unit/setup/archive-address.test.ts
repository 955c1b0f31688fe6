import fc from 'fast-check';
import { expect, test } from 'vitest';
import { archiveAddress, mirrorVariable, pickArchive } from '../../../src/setup/archive-address.ts';
import { hostCodename } from '../../../src/setup/debian-archive.ts';
import { SetupError } from '../../../src/setup/setup-error.ts';

const target = (site: string, release: string, origin = 'Debian', component = 'main') =>
  `${site}|${release}|${component}|Packages|${origin}`;

test('the archive is Debian’s main one: not security, not updates, not another vendor', () => {
  const targets = [
    target('https://vendor.example/apt', 'stable', 'Vendor'),
    target('http://mirror.example/debian-security', 'bookworm-security'),
    target('http://other.example/debian', 'bookworm-updates'),
    target('http://mirror.example/debian', 'bookworm', 'Debian', 'contrib'),
    target('http://mirror.example/debian/', 'bookworm'),
  ];
  expect(pickArchive(targets.join('\n'))).toBe('http://mirror.example/debian');
  expect(pickArchive(targets.slice(0, 4).join('\n'))).toBeUndefined();
});

test('the disc that a host was installed from is not asked, what comes after it is', () => {
  const disc = target('cdrom://[Debian GNU/Linux 12.5.0 _Bookworm_ - Official]', 'bookworm');
  const mounted = target('cdrom://Debian_12', 'bookworm');
  const mirror = target('http://mirror.example/debian', 'bookworm');
  expect(pickArchive([disc, mounted, mirror].join('\n'))).toBe('http://mirror.example/debian');
  expect(pickArchive([disc, mounted].join('\n'))).toBeUndefined();
});

test('fields that APT leaves unexpanded, before its first update, still name the archive', () => {
  const unknown = '$(ORIGIN)';
  const targets = [
    target('http://mirror.example/debian-security', 'trixie-security', unknown),
    target('http://mirror.example/debian', 'trixie', unknown),
    target('http://sure.example/debian', 'trixie'),
  ];
  expect(pickArchive(targets.slice(0, 2).join('\n'))).toBe('http://mirror.example/debian');
  expect(pickArchive(targets.join('\n'))).toBe('http://sure.example/debian');
});

test('whatever the host’s sources are, security’s site is never picked', () => {
  const site = fc.constantFrom('http://a.example/debian', 'http://a.example/debian-security', '');
  const release = fc.constantFrom('trixie', 'bookworm-security', 'stable', '');
  const origin = fc.constantFrom('Debian', 'Vendor', '$(ORIGIN)', '');
  const lines = fc.array(fc.tuple(site, release, origin).map((line) => target(...line)));
  fc.assert(
    fc.property(lines, fc.string(), (targets, noise) => {
      expect(pickArchive([...targets, noise].join('\n')) ?? '').not.toContain('security');
    }),
  );
});

test('the variable goes before the host’s configuration', async () => {
  const address = await archiveAddress({}, { [mirrorVariable]: 'https://near.example/debian/' });
  expect(address).toBe('https://near.example/debian');
});

test.each(['near.example', 'http://a b/', 'http://a/ trixie main\ndeb http://b', 'http://[x]'])(
  'an address that would change what a line of sources.list means is refused: %j',
  async (given) => {
    await expect(archiveAddress({}, { [mirrorVariable]: given })).rejects.toThrow(SetupError);
  },
);

test('the host’s release is read as os-release(5) writes it', () => {
  expect(hostCodename('NAME="x"\nVERSION_CODENAME=bookworm\n')).toBe('bookworm');
  expect(hostCodename('VERSION_CODENAME="trixie"\n')).toBe('trixie');
  expect(hostCodename('NAME=other\n')).toBeUndefined();
});
