/**
 * One test's own: its devices, its machine, its guest, what watches them, and their end. Everything is
 * made when it is first asked for; nothing of it is shared with another test.
 */
import { dirname } from 'node:path';
import type { HostedVmm } from '../client/hosted-vmm.ts';
import { Vmm } from '../client/vmm.ts';
import { FaultPlan } from '../faults/fault-plan.ts';
import { Machine } from '../machine/machine.ts';
import { formWithIommu } from '../machine/saved-machine.ts';
import { FuseUnavailable } from '../memory/fuse/fuse-unavailable.ts';
import type { PciEndpoint } from '../pci/endpoint.ts';
import { PciFunction } from '../pci/function.ts';
import { formatRequesterId } from '../pci/requester-id.ts';
import { ensureParts } from '../setup/ensure-parts.ts';
import type { Parts } from '../setup/parts.ts';
import { Trace } from '../trace/trace.ts';
import type { GuestOptions } from '../vm/guest.ts';
import { formatCommand, qemuCommand } from '../vm/qemu-command.ts';
import { TextTail } from '../vm/text-tail.ts';
import type { MachineEnd, VirtualMachine } from '../vm/virtual-machine.ts';
import { keepJournal } from './device-journal.ts';
import type { Evidence, TestPlace } from './evidence.ts';
import { packGuest } from './guest-package.ts';
import { GuestVerdict } from './guest-verdict.ts';
import { seedOf } from './seed.ts';
import { TestGuest } from './test-guest.ts';
import {
  bootTimeoutDefaultMs,
  checkOptions,
  commandTimeoutDefaultMs,
  type DevicePlace,
  type DriverTestOptions,
  devicePlaces,
  memoryBytesDefault,
} from './test-options.ts';
import { warnOnce } from './warnings.ts';

/** Some 60 MB of them. */
const traceEventsMax = 200_000;
const logBytesMax = 1 << 20;

/** As vitest has it of a test. */
export interface SeenError {
  readonly name?: string | undefined;
  readonly message: string;
}

/** A device in its place. */
interface Plug extends DevicePlace {
  readonly endpoint: PciEndpoint;
}

/** A test asks for what its options do not have. */
export class RigError extends Error {
  override readonly name = 'RigError';
}

const oneHost =
  'expected a test to ask for a guest (guest, machine) or for client, got both: a device has one host';
const noDevice = 'expected a device: test.use({ device: () => new … }), got none';

export class Rig {
  readonly trace: Trace;
  readonly faults: FaultPlan;
  readonly #options: DriverTestOptions;
  readonly #place: TestPlace;
  readonly #over = new AbortController();
  readonly #signal: AbortSignal;
  readonly #console = new TextTail(logBytesMax);
  readonly #log = new TextTail(logBytesMax);
  readonly #say = (message: string) => this.#log.push(Buffer.from(`${message}\n`));
  #places: readonly Plug[] | undefined;
  #machine: Promise<Machine> | undefined;
  #client: Promise<HostedVmm> | undefined;
  #guest: Promise<TestGuest> | undefined;
  #vm: VirtualMachine | undefined;
  #vmEnd: MachineEnd | undefined;
  #ready: TestGuest | undefined;
  /** What a guest that is not there yet waits for. */
  #stage: string | undefined;
  #qemu: string | undefined;
  #kernelLog: string | undefined;

  /** @param signal ends what is still to come, such as a boot @throws TypeError, RangeError */
  constructor(options: DriverTestOptions, place: TestPlace, signal: AbortSignal) {
    checkOptions(options);
    this.#options = options;
    this.#place = place;
    this.#signal = AbortSignal.any([signal, this.#over.signal]);
    const { traceDataBytes = 0 } = options;
    this.trace = new Trace({ dataBytesMax: traceDataBytes, eventsMax: traceEventsMax });
    this.faults = new FaultPlan({ seed: seedOf(options) });
  }

  /** Made by their factories. @throws what a factory does; Error as devicePlaces */
  get devices(): readonly PciEndpoint[] {
    return this.#plugs().map(({ endpoint }) => endpoint);
  }

  /** The first of them. @throws RigError where there is none; as {@link devices} */
  get device(): PciEndpoint {
    const [first] = this.#plugs();
    if (first === undefined) throw new RigError(noDevice);
    return first.endpoint;
  }

  #plugs(): readonly Plug[] {
    this.#places ??= devicePlaces(this.#options).map((place) => {
      const endpoint = place.make();
      keepJournal(endpoint, { rid: place.rid, trace: this.trace, machine: undefined });
      return { ...place, endpoint };
    });
    return this.#places;
  }

  /** With the devices plugged in; no guest yet. @throws as Machine.create; RigError beside {@link client} */
  async machine(): Promise<Machine> {
    if (this.#client !== undefined) throw new RigError(oneHost);
    this.#machine ??= this.#makeMachine();
    return await this.#machine;
  }

  /**
   * The first device, driven by the test in place of a guest; the others are plugged in beside it.
   * @throws as Vmm.host; RigError beside {@link machine} and {@link guest}
   */
  async client(): Promise<HostedVmm> {
    if (this.#machine !== undefined) throw new RigError(oneHost);
    this.#client ??= this.#hostDevices();
    return await this.#client;
  }

  /** Booted, its modules loaded. @throws SourceBuildError, SetupError, VmError, MemoryError */
  guest(): Promise<TestGuest> {
    this.#guest ??= this.#bootGuest();
    return this.#guest;
  }

  /**
   * Ends all of it.
   * @param seen what the test has failed with so far
   * @returns what else was wrong, and was not seen yet
   */
  async finish(seen: readonly SeenError[]): Promise<Error[]> {
    this.#over.abort(new Error('the test is over'));
    await this.#guest?.catch(() => {}); // whoever awaited it saw it
    const { complaint, lost, kernelLog } = await this.#verdict();
    this.#kernelLog = kernelLog;
    const errors = [...this.#brokenDevices()];
    const panicSeen = seen.some(({ name }) => name === 'GuestPanicError');
    if (complaint !== undefined && !(panicSeen && complaint.onlyPanic)) errors.push(complaint);
    // Else the test has failed by it.
    if (lost !== undefined && seen.length === 0) errors.push(lost);
    try {
      const host = await (this.#machine ?? this.#client)?.catch(() => undefined);
      await host?.[Symbol.asyncDispose]();
    } catch (thrown) {
      const error = thrown instanceof Error ? thrown : new Error(String(thrown));
      if (!seen.some(({ message }) => message.includes(error.message))) errors.push(error);
    }
    return errors;
  }

  /** After {@link finish}. */
  get evidence(): Evidence {
    return {
      console: this.#console.toString(),
      kernelLog: this.#kernelLog,
      machineLog: this.#log.toString(),
      qemu: this.#qemu,
      trace: this.trace,
      seed: this.faults.seed,
    };
  }

  /** What the test waits for at this moment, in its guest. */
  get waitingFor(): readonly string[] {
    if (this.#ready !== undefined) return this.#ready.waitingFor;
    return this.#stage === undefined ? [] : [this.#stage];
  }

  async #makeMachine(): Promise<Machine> {
    const { memory, iommu = 'identity', bytes = memoryBytesDefault } = this.#options;
    const plugs = this.#plugs();
    const parts = await partsOfHost();
    const machine = await machineInMemory(memory, (memory) =>
      Machine.create({
        ...{ parts, memory, bytes, iommu, lateFunctions: this.#resumes },
        instruments: [this.faults, this.trace],
        log: this.#say,
      }),
    );
    for (const { endpoint, rid } of plugs) {
      machine.plug(endpoint, rid);
      keepJournal(endpoint, { rid, trace: this.trace, machine });
    }
    return machine;
  }

  async #hostDevices(): Promise<HostedVmm> {
    const [first, ...others] = this.#plugs();
    if (first === undefined) throw new RigError(noDevice);
    const { memory = 'plain', bytes, iommu } = this.#options;
    const client = await Vmm.host(first.endpoint, {
      ...{ memory, address: formatRequesterId(first.rid) },
      ...(bytes === undefined ? {} : { bytes }),
      iommu: iommu === 'virtio' ? 'buffers' : 'identity',
      instruments: [this.faults, this.trace],
      log: this.#say,
    });
    const { machine } = client;
    keepJournal(first.endpoint, { rid: first.rid, trace: this.trace, machine });
    for (const { endpoint, rid } of others) {
      machine.plug(endpoint, rid);
      keepJournal(endpoint, { rid, trace: this.trace, machine });
    }
    return client;
  }

  async #bootGuest(): Promise<TestGuest> {
    const parts = await partsOfHost();
    const directory = dirname(this.#place.file);
    const { commandTimeoutMs = commandTimeoutDefaultMs, iommu = 'identity' } = this.#options;
    this.#stage = 'its modules and programs to be built';
    // One after the other: a driver that does not build costs no machine.
    const content = await packGuest(this.#options, {
      ...{ kernel: parts.kernel, directory, signal: this.#signal },
    });
    if (content.warnings !== '') warnOnce(content.warnings);
    this.#stage = 'its guest to boot';
    const machine = await this.machine();
    const options = await this.#guestOptions(parts);
    const { description } = await machine.plan(options);
    const console = { kind: 'stdio' } as const;
    this.#qemu = formatCommand(
      qemuCommand(parts.qemu, { ...description, console }),
      parts.qemu.env,
    );
    this.#vm = await machine.boot(options);
    this.#vm.ended.then((end) => {
      this.#vmEnd = end;
    });
    this.#stage = 'its files and modules to be loaded in the guest';
    this.#ready = await TestGuest.prepare(this.#vm, content, { iommu, commandTimeoutMs });
    return this.#ready;
  }

  async #guestOptions(parts: Parts): Promise<Omit<GuestOptions, 'memory'>> {
    const { cpus = 2, kernelArguments = [], accelerator = 'auto', iommu } = this.#options;
    const { bytes = memoryBytesDefault, bootTimeoutMs = bootTimeoutDefaultMs } = this.#options;
    const guest = {
      ...{ cpus, accelerator },
      kernelArguments: [
        ...watchfulKernel,
        ...(iommu === 'virtio' ? [strictUnmapping] : []),
        ...kernelArguments,
      ],
    };
    const form = iommu === 'virtio' ? await formWithIommu(parts, bytes, guest) : true;
    return {
      ...guest,
      bootTimeoutMs,
      resume: this.#resumes ? form : false,
      signal: this.#signal,
      onConsole: (chunk) => this.#console.push(chunk),
    };
  }

  get #resumes(): boolean {
    return (this.#options.start ?? 'saved') === 'saved';
  }

  async #verdict(): Promise<GuestVerdict> {
    return await GuestVerdict.of({
      vm: this.#vm,
      answers: this.#ready?.answers ?? true,
      end: this.#vmEnd,
      console: this.#console.toString(),
      allowed: this.#ready?.allowedComplaints ?? [],
    });
  }

  /** A device whose own code threw is off the bus: no test passes by it. */
  #brokenDevices(): Error[] {
    return (this.#places ?? []).flatMap(({ endpoint }) => {
      const failed = endpoint instanceof PciFunction ? endpoint.failed : undefined;
      return failed === undefined ? [] : [failed];
    });
  }
}

/**
 * The kernel says so of a hang while a test still waits: a command's time is 30 s. Warnings and what is
 * worse come on the console, whatever becomes of the guest.
 */
const watchfulKernel: readonly string[] = [
  'loglevel=5',
  'rcupdate.rcu_cpu_stall_timeout=10',
  'sysctl.kernel.watchdog_thresh=5',
  'sysctl.kernel.hung_task_timeout_secs=12',
];

/** What a driver unmaps is gone at once, not some milliseconds later with others. */
const strictUnmapping = 'iommu.strict=1';

let parts: Promise<Parts> | undefined;

/** A test fetches nothing: that would take minutes, unseen. */
function partsOfHost(): Promise<Parts> {
  parts ??= ensureParts({ offline: true });
  return parts;
}

/** Sealed where it was asked for; where nothing was said, plain is better than nothing, said loudly. */
async function machineInMemory(
  memory: DriverTestOptions['memory'],
  make: (memory: 'sealed' | 'plain') => Promise<Machine>,
): Promise<Machine> {
  try {
    return await make(memory ?? 'sealed');
  } catch (error) {
    if (memory !== undefined || !(error instanceof FuseUnavailable)) throw error;
    warnOnce(`WARNING: NOTHING IS ENCRYPTED: guest memory is plain, since ${error.message}`);
    return await make('plain');
  }
}
