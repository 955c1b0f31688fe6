import { Command } from 'commander';
import type { VmDescription } from '../../serve/control/operations.ts';
import { columns } from '../columns.ts';
import { type ControlFlags, jsonOption, socketOption, withControl } from '../control-choice.ts';
import { rangesText } from './bind.ts';
import { sharedText } from './share.ts';

interface InspectFlags extends ControlFlags {
  readonly command?: boolean;
}

export function inspectCommand(): Command {
  return new Command('inspect')
    .description('show one VM of sealbus serve: functions, bindings, keys, and its QEMU')
    .argument('<vm>', 'its name')
    .option(
      '--command',
      'only the command that boots it: eval "$(sealbus inspect alpha --command)"',
    )
    .addOption(jsonOption().conflicts('command'))
    .addOption(socketOption())
    .action(async (vm: string, flags: InspectFlags) => {
      const found = await withControl(flags, (client) => client.ask('inspect', { vm }));
      const { json, command } = flags;
      if (json) process.stdout.write(`${JSON.stringify(found)}\n`);
      else process.stdout.write(command ? `${found.command}\n` : asText(found));
    });
}

function asText(vm: VmDescription): string {
  const functions = vm.functions.map(({ rid, address, device, subsystem, attached, entry }) => [
    ...[
      rid,
      address,
      subsystem === undefined ? device : `${device} ${subsystem.name}/${subsystem.function}`,
    ],
    ...[attached ? 'attached' : '-'],
    ...(entry === undefined
      ? ['blocked', '', '']
      : [`${entry.slot ?? `by ${entry.slotFrom}`}`, entry.rights, `domain ${entry.domain}`]),
  ]);
  const keys = vm.keys.map(({ slot, state, generation, keyBits }) => [
    ...[String(slot), state, String(generation), keyBits === null ? '-' : `AES-${keyBits}-XTS`],
  ]);
  return [
    `VM ${vm.name}: number ${vm.vm}, ${vm.bytes / 2 ** 20} MiB ${vm.memory}, iommu ${vm.iommu}, ${vm.refused} DMA refused`,
    ...(vm.rootPorts === 0 ? [] : [`root ports: ${vm.rootPorts}`]),
    ...(vm.ram === null ? [] : [`memory: ${vm.ram}`]),
    ...(vm.dram === null ? [] : [`DRAM: ${vm.dram}`]),
    ...(vm.shared === null ? [] : [sharedText(vm.shared)]),
    '',
    columns(['RID', 'IN GUEST', 'DEVICE', 'VMM', 'SLOT', 'RIGHTS', 'DOMAIN'], functions),
    ...vm.functions.flatMap(({ rid, entry }) =>
      entry?.ranges === undefined ? [] : [`${rangesText(rid, entry.ranges)}\n`],
    ),
    columns(['SLOT', 'STATE', 'GEN', 'KEY'], keys),
    vm.command,
    '',
  ].join('\n');
}
