import { Command } from 'commander';
import { columns } from '../columns.ts';
import { type ControlFlags, jsonOption, socketOption, withControl } from '../control-choice.ts';

export function psCommand(): Command {
  return new Command('ps')
    .description('list the VMs that sealbus serve has')
    .addOption(jsonOption())
    .addOption(socketOption())
    .action(async (flags: ControlFlags) => {
      const vms = await withControl(flags, (client) => client.ask('ps', {}));
      if (flags.json) {
        process.stdout.write(`${JSON.stringify(vms)}\n`);
        return;
      }
      const head = [
        'NAME',
        'VM',
        'SLOT',
        'KEY',
        'GEN',
        'MEMORY',
        'SIZE',
        'IOMMU',
        'FUNCTIONS',
        'OF SUBSYSTEMS',
        'ATTACHED',
      ];
      const rows = vms.map((vm) => [
        ...[vm.name, String(vm.vm), String(vm.slot), vm.state, String(vm.generation), vm.memory],
        ...[`${vm.bytes / 2 ** 20}M`, vm.iommu, String(vm.functions)],
        vm.ofSubsystems.map((one) => `${one.name}/${one.function}`).join(' ') || '-',
        String(vm.attached),
      ]);
      process.stdout.write(columns(head, rows));
    });
}
