/** What each operation of the control socket does and answers. */

import { keySlot } from '../../keys/key-slot.ts';
import type { RotationProgress } from '../../keys/slot-keeper.ts';
import { checkKeyBits, type KeyBits, type SlotDescription } from '../../keys/slot-lifecycle.ts';
import { gpa } from '../../memory/guest-memory.ts';
import { formatRequesterId, parseRequesterId, type RequesterId } from '../../pci/requester-id.ts';
import { ConfigError } from '../config/config-place.ts';
import { parseServeConfig } from '../config/parse-serve-config.ts';
import type { ServeConfig } from '../config/serve-config.ts';
import { metricsText, type OwnCounters } from '../record/metrics.ts';
import type { RecordLine } from '../record/record-line.ts';
import type {
  NamespaceDescription,
  SubsystemDescription,
  SubsystemSummary,
} from '../served-subsystem.ts';
import type { FunctionDescription, ServedVm, SubsystemFunction } from '../served-vm.ts';
import { type SharedDescription, sharedDescription } from '../shared-description.ts';
import type { BindTarget, VmHost } from '../vm-host.ts';
import type { ControlHandler } from './control-connection.ts';
import type { ControlOperation, ControlOperations, ControlRequest } from './control-request.ts';

export interface VmSummary {
  readonly name: string;
  readonly vm: number;
  /** Of its own slot. */
  readonly slot: number;
  readonly state: string;
  readonly generation: number;
  readonly memory: 'sealed' | 'plain';
  readonly bytes: number;
  readonly iommu: 'identity' | 'virtio';
  readonly functions: number;
  /** Of these, those that are functions of subsystems. */
  readonly ofSubsystems: readonly SubsystemFunction[];
  /** Functions that a VMM is connected to. */
  readonly attached: number;
}

export interface VmDescription extends Omit<VmSummary, 'functions'> {
  readonly functions: readonly FunctionDescription[];
  /** Behind port n, from 1 on, is place 00.0 of bus n. */
  readonly rootPorts: number;
  /** The file that is its memory, for a VMM to map; null where memory is plain. */
  readonly ram: string | null;
  /** A file to look at what DRAM holds: ciphertext, and shared pages in the clear; null where memory is plain. */
  readonly dram: string | null;
  /** Null where memory is plain. */
  readonly shared: SharedDescription | null;
  readonly keys: readonly KeyDescription[];
  /** Of its functions' DMA, since it came. */
  readonly refused: number;
  /** QEMU's, as a shell takes it. */
  readonly command: string;
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

export interface KeyDescription extends Omit<SlotDescription, 'vm' | 'keyBits'> {
  readonly vm: number | null;
  readonly keyBits: number | null;
  readonly rotation: RotationProgress | null;
}

export interface ControlAnswers {
  ps: readonly VmSummary[];
  inspect: VmDescription;
  keys: readonly KeyDescription[];
  'key-generate': KeyDescription;
  'key-load': KeyDescription;
  'key-bind': KeyDescription;
  'key-activate': KeyDescription;
  'key-rotate': KeyDescription;
  'key-pause': KeyDescription;
  'key-resume': KeyDescription;
  'key-revoke': KeyDescription;
  'key-destroy': KeyDescription;
  bind: FunctionDescription;
  'bind-clear': FunctionDescription;
  'bind-range': FunctionDescription;
  /** What of the VM is shared afterwards. */
  'pages-share': SharedDescription;
  'pages-unshare': SharedDescription;
  'vm-add': readonly VmDescription[];
  'vm-remove': { readonly attached: number };
  subsystems: readonly SubsystemSummary[];
  'subsystem-inspect': SubsystemDescription;
  'subsystem-assign': NamespaceDescription;
  'subsystem-remove': object;
  record: readonly RecordLine[];
  metrics: string;
}

type Io = Parameters<ControlHandler['handle']>[1];

type Operations = {
  readonly [Op in ControlOperation]: (
    request: Extract<ControlRequest, { readonly op: Op }>,
    io: Io,
  ) => ControlAnswers[Op] | Promise<ControlAnswers[Op]>;
};

/** @param extra counters of who serves it, for `metrics` */
export function controlHandler(host: VmHost, extra: () => OwnCounters): ControlHandler {
  const operations = operationsOn(host, extra);
  return {
    async handle(request, io) {
      const operation = operations[request.op] as (request: ControlRequest, io: Io) => unknown;
      return await operation(request, io);
    },
  };
}

function operationsOn(host: VmHost, extra: () => OwnCounters): Operations {
  const { keys } = host;
  const options = ({ vm, bits }: { readonly vm?: string; readonly bits?: number }) => ({
    ...(vm === undefined ? {} : { vm: host.vm(vm).machine.vm }),
    ...keyBits(bits),
  });
  const described = (slot: number) => describeKey(host, keySlot(slot));
  const functionNow = (rid: RequesterId) => {
    const name = formatRequesterId(rid);
    const found = host.vms.flatMap(({ functions }) => functions).find((one) => one.rid === name);
    if (found === undefined) throw new Error(`expected ${name} to stay, got its VM's end`);
    return found;
  };
  const bound = async (rid: string, target: BindTarget) =>
    functionNow(await host.bind(parseRequesterId(rid), target));
  const converted = async (
    to: 'share' | 'unshare',
    { vm, address, bytes, keep }: ControlOperations['pages-share'],
  ) => {
    await host[to](vm, { address: gpa(address), bytes }, { keep });
    const shared = sharedDescription(host.vm(vm).machine);
    if (shared === null) throw new Error(`expected ${vm} to have private pages, got plain memory`);
    return shared;
  };
  return {
    ps: () => host.vms.map((vm) => summaryOf(host, vm)),
    inspect: ({ vm }) => describeVm(host, host.vm(vm)),
    keys: () => keys.list().map(({ slot }) => described(slot)),
    'key-generate': async (request) => {
      await keys.generate(keySlot(request.slot), options(request));
      return described(request.slot);
    },
    'key-load': async (request, io) => {
      await keys.load(keySlot(request.slot), io.descriptor(), options(request));
      return described(request.slot);
    },
    'key-bind': async ({ slot, vm }) => {
      await keys.bind(keySlot(slot), host.vm(vm).machine.vm);
      return described(slot);
    },
    'key-activate': async ({ slot }) => {
      await keys.activate(keySlot(slot));
      return described(slot);
    },
    'key-rotate': async ({ slot, bits, descriptor, duty }, io) => {
      const which = host.slotOf(slot);
      const key = descriptor === true ? { descriptor: io.descriptor() } : {};
      await keys.rotate(which, { ...key, ...keyBits(bits), duty });
      return described(which);
    },
    'key-pause': async ({ slot }) => {
      await keys.pause(host.slotOf(slot));
      return described(host.slotOf(slot));
    },
    'key-resume': async ({ slot }) => {
      await keys.resume(host.slotOf(slot));
      return described(host.slotOf(slot));
    },
    'key-revoke': async ({ slot }) => {
      const which = host.slotOf(slot);
      await keys.revoke(which);
      return described(which);
    },
    'key-destroy': async ({ slot }) => {
      const which = host.slotOf(slot);
      await keys.destroy(which);
      return described(which);
    },
    bind: ({ rid, target, at }) => bound(rid, bindTarget(target, at)),
    'bind-clear': ({ rid }) => bound(rid, 'clear'),
    'bind-range': ({ rid, address, bytes, slot, clear = false }) => {
      if ((slot !== undefined) === clear) {
        throw new Error(`expected a slot or clear, got ${clear ? 'both' : 'neither'}`);
      }
      const range = { start: address, bytes };
      const found = parseRequesterId(rid);
      host.bindRange(found, range, slot === undefined ? 'clear' : host.slotOf(slot));
      return functionNow(found);
    },
    'pages-share': (request) => converted('share', request),
    'pages-unshare': (request) => converted('unshare', request),
    'vm-add': async ({ text, file, directory, descriptor }, io) => {
      const config = parseServeConfig(text, file, directory, host.subsystems.known);
      const added = await host.addAll(withDescriptor(config, descriptor, io));
      return added.map((vm) => describeVm(host, vm));
    },
    'vm-remove': async ({ vm }) => ({ attached: await host.remove(vm) }),
    subsystems: () => host.subsystems.all,
    'subsystem-inspect': ({ subsystem }) => host.subsystems.describe(subsystem),
    'subsystem-assign': ({ subsystem, nsid, function: owner }) =>
      host.subsystems.assign(subsystem, nsid, owner ?? undefined),
    'subsystem-remove': async ({ subsystem }) => {
      await host.subsystems.remove(subsystem);
      return {};
    },
    record: ({ last = 100, follow = false }, io) => {
      if (follow) io.follow((tell) => host.recorder.onLine(tell));
      return last === 0 ? [] : host.recorder.lines.slice(-last);
    },
    metrics: () => metricsText(host, extra()),
  };
}

/**
 * A descriptor that a configuration names is the client's, not ours: the one that came with the request stands for
 * it. @throws ConfigError where it names another
 */
function withDescriptor(
  config: ServeConfig,
  named: number | undefined,
  io: Pick<Io, 'descriptor'>,
): ServeConfig {
  const received = named === undefined ? undefined : io.descriptor();
  return {
    ...config,
    vms: config.vms.map((vm) => {
      const { key } = vm;
      if (key.descriptor === undefined) return vm;
      if (key.descriptor === named) return { ...vm, key: { ...key, descriptor: received } };
      throw new ConfigError(
        key.place,
        `expected the descriptor that came with the request (${named ?? 'none'}), got ${key.descriptor}`,
      );
    }),
  };
}

/** @throws Error, RangeError, SyntaxError */
function bindTarget(target: string, at: string | undefined): BindTarget {
  const place = at === undefined ? {} : { at: parseRequesterId(at) };
  if (!/^\d+$/.test(target)) return { vm: target, ...place };
  if (at !== undefined) throw new Error(`expected a VM to go to ${at} in, got a key slot`);
  return { slot: keySlot(Number(target)) };
}

function keyBits(bits: number | undefined): { readonly keyBits?: KeyBits } {
  return bits === undefined ? {} : { keyBits: checkKeyBits(bits) };
}

function describeKey({ keys }: VmHost, slot: ReturnType<typeof keySlot>): KeyDescription {
  const { vm = null, keyBits = null, ...rest } = keys.describe(slot);
  return { ...rest, vm, keyBits, rotation: keys.rotation(slot) ?? null };
}

function summaryOf({ keys }: VmHost, vm: ServedVm): VmSummary {
  const { config, machine, attached } = vm;
  const { state, generation } = keys.describe(machine.slot);
  return {
    ...{ name: config.name, vm: machine.vm, slot: machine.slot, state, generation },
    ...{ memory: machine.mode, bytes: machine.bytes, iommu: config.iommu },
    ...{ functions: machine.functions.length, attached },
    ofSubsystems: vm.functions.flatMap(({ subsystem }) => subsystem ?? []),
  };
}

function describeVm(host: VmHost, vm: ServedVm): VmDescription {
  const { machine, command } = vm;
  return {
    ...summaryOf(host, vm),
    functions: vm.functions,
    rootPorts: machine.rootPorts,
    ram: machine.sealed?.path ?? null,
    dram: machine.sealed?.dramPath ?? null,
    shared: sharedDescription(machine),
    keys: host.keys
      .list()
      .filter((key) => key.vm === machine.vm)
      .map(({ slot }) => describeKey(host, slot)),
    refused: host.recorder.refused(machine.vm),
    ...{ command: command.text, argv: command.words, env: command.env },
  };
}
