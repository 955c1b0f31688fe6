/** Other kernels than trixie's: what holds on it holds on them, modules that are built for them too. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Edu } from '../../src/devices/edu/edu.ts';
import { Machine } from '../../src/machine/machine.ts';
import { formatRequesterId, parseRequesterId } from '../../src/pci/requester-id.ts';
import { ensureParts } from '../../src/setup/ensure-parts.ts';
import type { Parts } from '../../src/setup/parts.ts';
import { isAtLeast } from '../../src/setup/version.ts';
import { bootGuest } from '../../src/vm/guest.ts';
import { eduDriverSuite } from './edu-suite.ts';

const fetchMs = 600_000;

describe('the newest kernel of the backports', () => {
  let parts: Parts;
  beforeAll(async () => {
    parts = await ensureParts({ kernel: 'trixie-backports' });
  }, fetchMs);

  it('is newer than trixie’s, and leaves that one where it is', async () => {
    const trixie = await ensureParts({ kernel: 'trixie', offline: true });
    expect(trixie.kernel.release).toMatch(/^6\.12\./);
    expect(isAtLeast(parts.kernel.release, '6.13')).toBe(true);
  });

  eduDriverSuite(
    'the newest kernel of the backports',
    async () => {
      const address = parseRequesterId('00:04.0');
      const machine = await Machine.create({ parts, memory: 'plain', bytes: 512 * 2 ** 20 });
      machine.plug(new Edu(), address);
      try {
        const vm = await machine.boot();
        expect(vm.kernelRelease).toBe(parts.kernel.release);
        const end = async () => machine[Symbol.asyncDispose]();
        return { vm, address: formatRequesterId(address), end };
      } catch (error) {
        await machine[Symbol.asyncDispose]();
        throw error;
      }
    },
    { fileBytes: 100_001, hammerSeconds: 1, resettable: false },
  );
});

it(
  'a release that Debian does not have is refused with those that it has',
  async () => {
    const asked = ensureParts({ kernel: '6.12.1+none-cloud-amd64' });
    await expect(asked).rejects.toThrow(
      /expected a cloud kernel 6\.12\.1\+none-cloud-amd64 .* there are 6\.12\.\d+\+deb13-cloud-amd64/,
    );
  },
  fetchMs,
);

describe('a kernel in a build directory', () => {
  let directory: string;
  let trixie: Parts;
  beforeAll(async () => {
    trixie = await ensureParts({ kernel: 'trixie' });
    directory = mkdtempSync(join(tmpdir(), 'sealbus-built-'));
    layOut(directory, trixie.kernel);
  }, fetchMs);
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  it('boots, and takes modules that were built against it', async () => {
    const parts = await ensureParts({ kernel: directory, offline: true });
    expect(parts.kernel.vmlinux).toBe(join(directory, 'vmlinux'));
    await using vm = await bootGuest(parts);
    expect(vm.kernelRelease).toBe(trixie.kernel.release);
    await vm.insmod('sealbus_edu');
    expect(await vm.check(['lsmod'])).toMatch(/^sealbus_edu /m);
  });
});

/**
 * Debian's kernel and headers laid out as a build leaves them. As in the directory of a `make O=`, the
 * Makefile hands on to another; it says what this host's compiler needs to be told.
 */
function layOut(directory: string, kernel: Parts['kernel']): void {
  const { directory: headers, variables } = kernel.build;
  for (const name of readdirSync(headers)) {
    if (['Makefile', 'arch', 'include', 'vmlinux'].includes(name)) continue;
    symlinkSync(join(headers, name), join(directory, name));
  }
  symlinkSync(kernel.vmlinux, join(directory, 'vmlinux'));
  mkdirSync(join(directory, 'arch/x86/boot'), { recursive: true });
  symlinkSync(kernel.bzImage, join(directory, 'arch/x86/boot/bzImage'));
  mkdirSync(join(directory, 'include/config'), { recursive: true });
  writeFileSync(join(directory, 'include/config/kernel.release'), `${kernel.release}\n`);
  const set = Object.entries(variables).map(([name, value]) => `${name}=${value}`);
  const hand = ['$(MAKE)', '-C', headers, 'M=$(M)', ...set, '$@'].join(' ');
  writeFileSync(join(directory, 'Makefile'), `modules:\n\t${hand}\n.PHONY: modules\n`);
}
