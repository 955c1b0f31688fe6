/** An NVM subsystem with functions in a Debian, in another VM and in none, and what nvme-cli is told of it. */
import { describe, expect, it } from 'vitest';
import type { Nvme } from '../../../src/devices/nvme/nvme.ts';
import { Status } from '../../../src/devices/nvme/status.ts';
import { NvmeSubsystem } from '../../../src/devices/nvme/subsystem.ts';
import { Machine } from '../../../src/machine/machine.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { ensureParts } from '../../../src/setup/ensure-parts.ts';
import { MemoryStorage } from '../../unit/devices/nvme/memory-storage.ts';
import type { DebianGuest } from './debian-guest.ts';
import { NvmeCli } from './nvme-cli.ts';

const MIB = 2 ** 20;
export const SUBSYSTEM_SERIAL = 'SUBSYSTEM1';
/** Of functions 0 to 2 in the guest; 3 is in another VM, 4 in none. */
const PLACES = ['00:05.0', '00:06.0', '00:07.0'] as const;
const IN_OTHER_VM = 3;
const VIRTUAL_FUNCTIONS = 4;
/** By NSID: who has it. */
const OWNERS = [0, 1, IN_OTHER_VM, 2, undefined] as const;

/** The disks are memory of the test's: nothing of it is to be closed. */
export function newSubsystem(): NvmeSubsystem {
  return new NvmeSubsystem({
    ...{ virtualFunctions: VIRTUAL_FUNCTIONS, serial: SUBSYSTEM_SERIAL, doorbells: 'message' },
    namespaces: OWNERS.map((owner) => ({
      storage: new MemoryStorage(MIB),
      ...(owner === undefined ? {} : { function: owner }),
    })),
  });
}

export function functionsInGuest(subsystem: NvmeSubsystem): (readonly [string, Nvme])[] {
  return PLACES.map((place, number) => [place, subsystem.controller(number)]);
}

/** A VM beside the guest, which has a function and nobody who drives it. */
export async function otherVm(guest: DebianGuest, subsystem: NvmeSubsystem): Promise<Machine> {
  const parts = await ensureParts();
  const { platform } = guest.machine;
  const machine = await Machine.create({ platform, parts, memory: 'sealed', bytes: 2 * MIB });
  machine.plug(subsystem.controller(IN_OTHER_VM), parseRequesterId('00:05.0'));
  return machine;
}

interface SecondaryList {
  readonly 'secondary-controllers': readonly Readonly<Record<string, number>>[];
}

export function describeSubsystem(guestNow: () => DebianGuest): void {
  describe('functions of one subsystem, some of them in this guest', () => {
    const cli = () => new NvmeCli(guestNow());
    const device = (number: 0 | 1 | 2) => guestNow().controller(parseRequesterId(PLACES[number]));

    it('id-ctrl: controllers of one subsystem, of which each is told what it is', async () => {
      const [primary, one, two] = [
        await cli().json(`id-ctrl ${await device(0)}`),
        await cli().json(`id-ctrl ${await device(1)}`),
        await cli().json(`id-ctrl ${await device(2)}`),
      ];
      // CMIC: several controllers (bit 1), of a virtual function (bit 2).
      expect(primary).toMatchObject({ cntlid: 1, cmic: 0b010 });
      expect(one).toMatchObject({ cntlid: 2, cmic: 0b110 });
      expect(two).toMatchObject({ cntlid: 3, cmic: 0b110 });
      for (const id of [primary, one, two]) {
        expect(id).toMatchObject({ subnqn: primary.subnqn, nn: 256, tnvmcap: 0 });
        expect(String(id.sn).trim()).toBe(SUBSYSTEM_SERIAL);
        // Format NVM; no Namespace Management (bit 3), no Virtualization Management (bit 7).
        expect(id.oacs).toBe(0b10);
      }
    });

    it('list-subsys: one subsystem with a path for each', async () => {
      const { subnqn } = await cli().json(`id-ctrl ${await device(0)}`);
      const [host] =
        await cli().json<
          {
            readonly Subsystems: readonly {
              readonly NQN: string;
              readonly Paths: readonly Readonly<Record<string, string>>[];
            }[];
          }[]
        >('list-subsys');
      const those = host?.Subsystems.filter(({ NQN }) => NQN === subnqn) ?? [];
      const paths = those.flatMap(({ Paths }) => Paths);
      expect(those.length).toBe(1);
      expect(paths.map(({ Address, State }) => [Address, State]).sort()).toEqual(
        PLACES.map((place) => [`0000:${place}`, 'live']),
      );
    });

    it('list-ctrl: the primary one tells of all, a secondary one of itself', async () => {
      const listed = async (command: string) => {
        const { ctrl_list: list } = await cli().json<{ ctrl_list: { ctrl_id: number }[] }>(command);
        return list.map(({ ctrl_id }) => ctrl_id);
      };
      expect(await listed(`list-ctrl ${await device(0)}`)).toEqual([1, 2, 3, 4, 5]);
      expect(await listed(`list-ctrl ${await device(0)} -c 4`)).toEqual([4, 5]);
      expect(await listed(`list-ctrl ${await device(1)}`)).toEqual([2]);
      expect(await listed(`list-ctrl ${await device(0)} -n 1`)).toEqual([1]);
      expect(await listed(`list-ctrl ${await device(1)} -n 2`)).toEqual([2]);
      expect(await cli().status(`list-ctrl ${await device(0)} -n 2`)).toBe(Status.invalidField);
      expect(await cli().status(`list-ctrl ${await device(1)} -n 1`)).toBe(Status.invalidField);
    });

    it('primary-ctrl-caps and list-secondary: functions in VMs are online, the one in none is not', async () => {
      const primary = await device(0);
      const { cntlid, ...resources } = await cli().json(`primary-ctrl-caps ${primary}`);
      expect(cntlid).toBe(1);
      // No queue and no vector can be moved from one to another.
      expect([...new Set(Object.values(resources))]).toEqual([0]);
      const listed = async (more = '') => {
        const said = await cli().json<SecondaryList>(`list-secondary ${primary} ${more}`);
        return said['secondary-controllers'].map((entry) => [
          entry['secondary-controller-identifier'],
          entry['primary-controller-identifier'],
          entry['secondary-controller-state'],
          entry['virtual-function-number'],
        ]);
      };
      const all = [
        [2, 1, 1, 1],
        [3, 1, 1, 2],
        [4, 1, 1, 3],
        [5, 1, 0, 4],
      ];
      expect(await listed()).toEqual(all);
      expect(await listed('-c 4')).toEqual(all.slice(2));
      for (const command of ['primary-ctrl-caps', 'list-secondary']) {
        const status = await cli().status(`${command} ${await device(1)}`);
        expect([command, status]).toEqual([command, Status.invalidField]);
      }
    });

    it('list-ns and id-ns: each has its own namespaces, and of another’s there is nothing', async () => {
      const identifiers = new Set<unknown>();
      for (const number of [0, 1, 2] as const) {
        const at = await device(number);
        for (const list of ['list-ns', 'list-ns --all']) {
          const { nsid_list: listed } = await cli().json<{ nsid_list: { nsid: number }[] }>(
            `${list} ${at}`,
          );
          const own = OWNERS.flatMap((owner, index) => (owner === number ? [index + 1] : []));
          expect(listed.map(({ nsid }) => nsid)).toEqual(own);
        }
        for (const [index, owner] of OWNERS.entries()) {
          const nsid = index + 1;
          const id = await cli().json<Record<string, unknown>>(`id-ns ${at} -n ${nsid}`);
          if (owner === number) {
            expect(id).toMatchObject({ nsze: MIB / 512, nmic: 0 });
            identifiers.add(id.nguid).add(id.eui64);
            continue;
          }
          const { lbafs: _formats, vs: _vendor, nguid, eui64, ...rest } = id;
          expect([...new Set(Object.values(rest))]).toEqual([0]);
          expect([nguid, eui64]).toEqual(['0'.repeat(32), '0'.repeat(16)]);
          expect(await cli().status(`ns-descs ${at} -n ${nsid}`)).toBe(
            Status.invalidNamespaceOrFormat,
          );
          expect(await cli().status(`format ${at} -n ${nsid} --force`)).toBe(Status.invalidField);
        }
        expect(await cli().status(`id-ns ${at} -n 257`)).toBe(Status.invalidNamespaceOrFormat);
      }
      expect(identifiers.size).toBe(6);
    });

    it('who has which is not a guest’s to change, nor another function its to reset', async () => {
      for (const number of [0, 1] as const) {
        const at = await device(number);
        for (const command of [
          `attach-ns ${at} -n 3 -c 2`,
          `detach-ns ${at} -n 2 -c 2`,
          `create-ns ${at} --nsze=8 --ncap=8 --flbas=0`,
          `delete-ns ${at} -n 2`,
          `virt-mgmt ${at} -c 3 -r 0 -a 7 -n 0`,
        ]) {
          const status = await cli().status(command);
          expect([command, status]).toEqual([command, Status.invalidOpcode]);
        }
        const { exitCode, stderr } = await guestNow().try(`nvme subsystem-reset ${at}`);
        expect([exitCode, String(stderr)]).toEqual([1, expect.stringMatching(/not supported/)]);
      }
    });
  });
}
