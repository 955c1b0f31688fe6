import { Command, InvalidArgumentError } from 'commander';
import type {
  NamespaceDescription,
  SubsystemDescription,
  SubsystemSummary,
} from '../../serve/served-subsystem.ts';
import { columns } from '../columns.ts';
import { type ControlFlags, jsonOption, socketOption, withControl } from '../control-choice.ts';

export function subsystemCommand(): Command {
  const subsystem = new Command('subsystem').description(
    'NVM subsystems of sealbus serve, whose functions its VMs have',
  );
  const step = (name: string, description: string) =>
    new Command(name).description(description).addOption(jsonOption()).addOption(socketOption());

  subsystem.addCommand(
    step('list', 'all of them').action(async (flags: ControlFlags) => {
      const all = await withControl(flags, (client) => client.ask('subsystems', {}));
      process.stdout.write(flags.json ? `${JSON.stringify(all)}\n` : table(all));
    }),
  );
  subsystem.addCommand(
    step('inspect', 'its functions with the VMs that have them, and its namespaces')
      .argument('<subsystem>', 'its name')
      .action(async (name: string, flags: ControlFlags) => {
        const found = await withControl(flags, (client) =>
          client.ask('subsystem-inspect', { subsystem: name }),
        );
        process.stdout.write(flags.json ? `${JSON.stringify(found)}\n` : asText(found));
      }),
  );
  subsystem.addCommand(
    step('assign', 'give a namespace to a function, from the next time on that a VM gets it')
      .argument('<subsystem>', 'its name')
      .argument('<nsid>', 'number of the namespace, from 1', wholeNumber)
      .argument('<function|none>', 'number of the function, or none', functionOrNone)
      .action(async (name: string, nsid: number, owner: number | null, flags: ControlFlags) => {
        const now = await withControl(flags, (client) =>
          client.ask('subsystem-assign', { subsystem: name, nsid, function: owner }),
        );
        process.stdout.write(flags.json ? `${JSON.stringify(now)}\n` : `${assigned(name, now)}\n`);
      }),
  );
  subsystem.addCommand(
    step('remove', 'close its disks, when no VM has a function of it any more')
      .argument('<subsystem>', 'its name')
      .action(async (name: string, flags: ControlFlags) => {
        const removed = await withControl(flags, (client) =>
          client.ask('subsystem-remove', { subsystem: name }),
        );
        if (flags.json) process.stdout.write(`${JSON.stringify(removed)}\n`);
      }),
  );
  return subsystem;
}

function table(all: readonly SubsystemSummary[]): string {
  const rows = all.map(({ name, virtualFunctions, given, namespaces }) => [
    ...[name, String(virtualFunctions), String(namespaces)],
    given.map((one) => `${one.function}: ${one.vm}`).join(', ') || '-',
  ]);
  return columns(['NAME', 'VIRTUAL', 'NAMESPACES', 'VMS'], rows);
}

function asText({ name, virtualFunctions, functions, namespaces }: SubsystemDescription): string {
  const functionRows = functions.map((one) => [
    ...[String(one.function), one.vm ?? '-', one.rid ?? '-', one.namespaces.join(', ') || '-'],
  ]);
  const namespaceRows = namespaces.map((one) => [
    ...[String(one.nsid), one.function === null ? 'none' : String(one.function), one.vm ?? '-'],
    ...[String(one.bytes), String(one.blockBytes), one.readOnly ? 'read only' : '-', one.file],
    one.pending ? `(${pending(one)})` : '',
  ]);
  return [
    `subsystem ${name}: a physical function and ${virtualFunctions} virtual ${virtualFunctions === 1 ? 'one' : 'ones'}`,
    '',
    columns(['FUNCTION', 'VM', 'RID', 'NAMESPACES'], functionRows),
    columns(['NSID', 'FUNCTION', 'VM', 'BYTES', 'BLOCK', 'MODE', 'FILE', ''], namespaceRows),
  ].join('\n');
}

function assigned(subsystem: string, namespace: NamespaceDescription): string {
  const { nsid, function: owner } = namespace;
  const whose = owner === null ? "nobody's" : `function ${owner}'s`;
  const when = namespace.pending ? `: ${pending(namespace)}` : '';
  return `namespace ${nsid} of ${subsystem} is ${whose}${when}`;
}

/** A controller has its namespaces from its beginning to its end. */
function pending({ function: owner, heldBy, vm }: NamespaceDescription): string {
  return heldBy === null
    ? `function ${owner} gets it when it is moved, or given to a VM again`
    : `function ${heldBy}${vm === null ? '' : ` of VM ${vm}`} keeps it until it is moved, or its VM removed`;
}

function wholeNumber(text: string): number {
  if (/^\d{1,4}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('expected a whole number');
}

function functionOrNone(text: string): number | null {
  return text === 'none' ? null : wholeNumber(text);
}
