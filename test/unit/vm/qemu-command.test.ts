import { execFileSync } from 'node:child_process';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseRequesterId, requesterId } from '../../../src/pci/requester-id.ts';
import {
  formatCommand,
  type GuestDevice,
  qemuArguments,
  type VirtualMachineDescription,
} from '../../../src/vm/qemu-command.ts';

const plain: VirtualMachineDescription = {
  machine: 'q35',
  accelerator: 'tcg',
  cpus: 2,
  memory: { kind: 'memfd', bytes: 512 * 2 ** 20 },
  boot: {
    kind: 'kernel',
    image: '/k/vmlinux',
    initrd: '/k/initrd',
    arguments: ['console=ttyS0', 'quiet'],
  },
  devices: [],
  console: { kind: 'descriptor', fd: 3 },
};
const edu = (address: string): GuestDevice => ({
  kind: 'builtin',
  driver: 'edu',
  address: parseRequesterId(address),
});

/** Values of an option, in order. */
function values(args: readonly string[], option: string): string[] {
  return args.flatMap((arg, i) => (arg === option ? [args[i + 1]!] : []));
}

describe("QEMU's command line", () => {
  it('shares guest memory, whatever holds it', () => {
    const file = { kind: 'file', bytes: 2 ** 30, path: '/run/a,b/ram' } as const;
    for (const memory of [plain.memory, file]) {
      const args = qemuArguments({ ...plain, memory });
      const [object] = values(args, '-object').map((text) => JSON.parse(text));
      expect(object).toMatchObject({ id: 'ram', size: memory.bytes, share: true });
      expect(values(args, '-machine')[0]).toContain('memory-backend=ram');
      expect(values(args, '-m')).toEqual([`${memory.bytes / 2 ** 20}M`]);
      if (memory.kind === 'file') expect(object['mem-path']).toBe('/run/a,b/ram');
    }
  });

  describe('boots from a disk', () => {
    const from = parseRequesterId('00:02.0');
    const disk: GuestDevice = { kind: 'vfio-user', address: from, socket: '/run/x/nvme.sock' };
    const boot = { kind: 'firmware', from } as const;
    const devices = [edu('00:04.0'), disk];

    it('by SeaBIOS, the device first that was named, with no kernel of ours', () => {
      const args = qemuArguments({ ...plain, boot, devices });
      for (const absent of ['-kernel', '-initrd', '-append', '-drive', '-fw_cfg', '-smbios']) {
        expect(args).not.toContain(absent);
      }
      const given = values(args, '-device').map((text) => JSON.parse(text));
      expect(given.map(({ addr, bootindex }) => [addr, bootindex])).toEqual([
        ['4.0', undefined],
        ['2.0', 0],
      ]);
    });

    it('by UEFI from flash that keeps nothing', () => {
      const uefi = { code: '/f/code', variables: '/f/a,b' };
      const args = qemuArguments({ ...plain, boot: { ...boot, uefi }, devices });
      expect(values(args, '-drive')).toEqual([
        'if=pflash,unit=0,format=raw,readonly=on,file=/f/code',
        'if=pflash,unit=1,format=raw,snapshot=on,file=/f/a,,b',
      ]);
    });

    it('by QEMU’s own block layer too', () => {
      const drive = { file: '/d/a,b.img', readOnly: true };
      const own: GuestDevice = { kind: 'builtin', driver: 'nvme', address: from, drive };
      const args = qemuArguments({ ...plain, boot, devices: [own] });
      const [, id = ''] =
        /^if=none,id=([^,]+),format=raw,readonly=on,file=\/d\/a,,b\.img$/.exec(
          values(args, '-drive')[0] ?? '',
        ) ?? [];
      expect(JSON.parse(values(args, '-device').at(-1)!)).toMatchObject({
        drive: id,
        bootindex: 0,
      });
    });

    it('only where there is a device', () => {
      expect(() => qemuArguments({ ...plain, boot, devices: [edu('00:04.0')] })).toThrow(
        /device to boot from at .*00:02\.0/,
      );
    });
  });

  it('gives a vfio-user function its socket, its address and a long patience', () => {
    const address = parseRequesterId('00:05.0');
    const args = qemuArguments({
      ...plain,
      devices: [{ kind: 'vfio-user', address, socket: '/run/x/edu.sock' }],
    });
    const device = JSON.parse(values(args, '-device').at(-1)!);
    expect(device).toEqual({
      driver: 'vfio-user-pci',
      addr: '5.0',
      socket: { type: 'unix', path: '/run/x/edu.sock' },
      'x-msg-timeout': 600_000,
    });
  });

  it('says of a device that it has several functions, where it has', () => {
    const args = qemuArguments({
      ...plain,
      devices: ['00:04.3', '00:04.0', '00:05.0'].map(edu),
    });
    const devices = values(args, '-device').map((text) => JSON.parse(text));
    expect(devices).toEqual([
      { driver: 'edu', addr: '4.3' },
      { driver: 'edu', addr: '4.0', multifunction: true },
      { driver: 'edu', addr: '5.0' },
    ]);
    expect(() => qemuArguments({ ...plain, devices: [edu('00:06.1')] })).toThrow(/function 0/);
  });

  it('has root ports, and what is behind one by a name, on its bus', () => {
    const address = parseRequesterId('02:00.0');
    const socket = '/run/x/nvme.sock';
    const devices: GuestDevice[] = [edu('00:04.0'), { kind: 'vfio-user', address, socket }];
    const given = values(qemuArguments({ ...plain, rootPorts: 2, devices }), '-device').map(
      (text) => JSON.parse(text),
    );
    expect(given).toMatchObject([
      { driver: 'pcie-root-port', id: 'port-1', bus: 'pcie.0', addr: '1.0', multifunction: true },
      { driver: 'pcie-root-port', id: 'port-2', bus: 'pcie.0', addr: '1.1' },
      { driver: 'edu', addr: '4.0' },
      { driver: 'vfio-user-pci', bus: 'port-2', addr: '0.0', id: 'port-2-function' },
    ]);
    expect(given[2]).toEqual({ driver: 'edu', addr: '4.0' });
    expect(values(qemuArguments(plain), '-device')).toEqual([]);
  });

  it('keeps the disks of two functions apart, whatever buses they are on', () => {
    const disk = (address: string): GuestDevice => ({
      ...{ kind: 'builtin', driver: 'nvme', address: parseRequesterId(address) },
      drive: { file: '/d/x.img' },
    });
    const devices = ['01:00.0', '02:00.0'].map(disk);
    const args = qemuArguments({ ...plain, rootPorts: 2, devices });
    const drives = values(args, '-drive').map((text) => /id=([^,]+)/.exec(text)?.[1]);
    expect(new Set(drives).size).toBe(2);
    expect(values(args, '-device').flatMap((text) => JSON.parse(text).drive ?? [])).toEqual(drives);
  });

  it('names any function of bus 0 that is free', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 30 }), fc.nat(7), (device, fn) => {
        const address = requesterId({ bus: 0, device, function: fn });
        const first = requesterId({ bus: 0, device, function: 0 });
        const devices = [...new Set([address, first])].map(
          (at): GuestDevice => ({ kind: 'builtin', driver: 'edu', address: at }),
        );
        const [text] = values(qemuArguments({ ...plain, devices }), '-device');
        expect(JSON.parse(text!).addr).toBe(`${device.toString(16)}.${fn}`);
      }),
    );
  });

  it.each([
    ['no CPU', { cpus: 0 }, /1 to 64 virtual CPUs, got 0/],
    ['odd memory', { memory: { kind: 'memfd', bytes: 2 ** 29 + 1 } }, /whole MiB/],
    ['a device on another bus', { devices: [edu('01:00.0')] }, /on bus 0.*0000:01:00.0/],
    ['a device on another segment', { devices: [edu('0001:00:04.0')] }, /on bus 0/],
    [
      'a device behind a root port that is not there',
      { rootPorts: 2, devices: [edu('03:00.0')] },
      /the machine has 2, the first with 01:00.0.*0000:03:00.0/,
    ],
    ['a device on a root port', { rootPorts: 1, devices: [edu('00:01.0')] }, /root ports are/],
    ['root ports of a pc', { machine: 'pc', rootPorts: 1 }, /q35 to have root ports, got a pc/],
    ['too many root ports', { rootPorts: 17 }, /0 to 16 root ports, got 17/],
    ['two devices on one address', { devices: [edu('00:04.0'), edu('00:04.0')] }, /taken/],
    ['a device on the host bridge', { devices: [edu('00:00.0')] }, /taken/],
    [
      "a device on the agent's",
      { devices: [edu('00:1e.0')], agent: { kind: 'stdio' } },
      /0000:00:1e.0, which is taken/,
    ],
    [
      'a split argument',
      { boot: { kind: 'kernel', image: '/k', arguments: ['a b'] } },
      /without spaces, got "a b"/,
    ],
  ] as const)('refuses %s', (_name, change, message) => {
    expect(() => qemuArguments({ ...plain, ...change })).toThrow(message);
  });

  it('doubles commas where QEMU parts at them', () => {
    const args = qemuArguments({
      ...plain,
      acpiTables: ['/t/a,b.aml'],
      qmp: { kind: 'listen', path: '/run/q,1' },
    });
    expect(values(args, '-acpitable')).toEqual(['file=/t/a,,b.aml']);
    expect(values(args, '-chardev')).toContain('socket,id=qmp,path=/run/q,,1,server=on,wait=off');
  });
});

describe('the printed command', () => {
  it('is read back by a shell as the same words', () => {
    fc.assert(
      fc.property(fc.array(fc.string().filter((word) => !word.includes('\0'))), (words) => {
        const command = ['printf', '%s\\0', ...words];
        const printed = execFileSync('sh', ['-c', formatCommand(command)], { encoding: 'utf8' });
        expect(printed).toBe(words.length > 0 ? `${words.join('\0')}\0` : '\0');
      }),
      { numRuns: 30 },
    );
  });

  it('puts the environment in front', () => {
    expect(formatCommand(['qemu', '-m', '1G'], { DIR: '/a b' })).toBe(
      "DIR='/a b' qemu \\\n  -m 1G",
    );
  });
});
