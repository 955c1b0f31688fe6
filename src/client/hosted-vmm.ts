import type { FaultLog } from '../iommu/fault-log.ts';
import type { Instrument } from '../machine/instrument.ts';
import { Machine, type PluggedFunction } from '../machine/machine.ts';
import type { PciEndpoint } from '../pci/endpoint.ts';
import { PciFunction } from '../pci/function.ts';
import { parseRequesterId, type RequesterId, requesterId } from '../pci/requester-id.ts';
import { ensureLibvfioUser } from '../setup/ensure-libvfio-user.ts';
import { BufferDomain } from './buffer-domain.ts';
import { BYTES_DEFAULT, ClientMemory, GPA_DEFAULT } from './client-memory.ts';
import { Vmm, type VmmOptions } from './vmm.ts';

/** Where the first function goes that names no place. */
const FIRST_DEVICE = 5;
const LAST_DEVICE = 31;
const MIB = 2 ** 20;
/** Turns of the event loop in which a server sees that its client has gone. */
const GONE_TURNS_MAX = 1000;

export interface PlugOptions extends Omit<VmmOptions, 'bytes' | 'gpa'> {
  /** Requester ID, such as `00:05.0`. Default: the next free one from 00:05.0 on. */
  readonly address?: string;
}

export interface HostOptions extends PlugOptions, Pick<VmmOptions, 'gpa'> {
  /** Size of guest memory, in whole MiB. Default 64 MiB; plain memory takes up what is written. */
  readonly bytes?: number;
  /** How guest memory is held. Default plain, which starts in milliseconds and encrypts nothing. */
  readonly memory?: 'plain' | 'sealed';
  /**
   * What the function reaches: `identity` (default) all of memory, `buffers` those that are allocated,
   * as behind an IOMMU whose driver maps each of them and unmaps what it frees.
   */
  readonly iommu?: 'identity' | 'buffers';
  /** What watches or disturbs the device: a Trace, a FaultPlan. From the device outwards. */
  readonly instruments?: readonly Instrument[];
  /** What the device and its server say. Default: standard error. */
  readonly log?: (message: string) => void;
}

/** What several functions of one host share. */
interface Host {
  readonly machine: Machine;
  readonly memory: ClientMemory;
  readonly buffers: BufferDomain | undefined;
}

/** A {@link Vmm} whose device is served by this very process, which so knows it by name. */
export class HostedVmm<Device extends PciEndpoint = PciEndpoint> extends Vmm<Device> {
  readonly device: Device;
  /** The device's machine, which has no guest: its IOMMU, key slots and functions. */
  readonly machine: Machine;
  readonly plugged: PluggedFunction;
  readonly #host: Host;
  /** Whether host and memory end with this one. */
  readonly #owner: boolean;

  /** @throws as {@link Vmm.host} */
  static async start<Device extends PciEndpoint>(
    device: Device,
    options: HostOptions,
  ): Promise<HostedVmm<Device>> {
    const host = await startHost(options);
    try {
      const vmm = new HostedVmm(device, host, options, true);
      await vmm.open();
      return vmm;
    } catch (error) {
      await endHost(host);
      throw error;
    }
  }

  private constructor(device: Device, host: Host, options: PlugOptions, owner: boolean) {
    const plugged = plug(device, host, options.address);
    const { machine } = host;
    const before = machine.iommu.faults.total;
    const { registerMap } = device;
    super({
      socketPath: plugged.server.socketPath,
      memory: host.memory,
      options,
      ...(registerMap === undefined ? {} : { registerMap }),
      why: () => troubles(device, plugged.rid, machine.iommu.faults, before),
    });
    this.device = device;
    this.machine = machine;
    this.plugged = plugged;
    this.#host = host;
    this.#owner = owner;
  }

  get rid(): RequesterId {
    return this.plugged.rid;
  }

  /** DMA that the IOMMU has refused, of all functions of the machine. */
  get faults(): FaultLog {
    return this.machine.iommu.faults;
  }

  /**
   * One more device on the same machine, in the same memory, with a Vmm of its own. It ends with this
   * one at the latest; its function stays in its place until then. @throws as {@link Vmm.host}
   */
  async plug<Other extends PciEndpoint>(
    device: Other,
    options: PlugOptions = {},
  ): Promise<HostedVmm<Other>> {
    const vmm = new HostedVmm(device, this.#host, options, false);
    await vmm.open();
    return vmm;
  }

  override async disconnect(): Promise<void> {
    await super.disconnect();
    // The server shares our event loop: it sees the end of the connection in one of the next turns.
    for (let turn = 0; this.plugged.server.connected && turn < GONE_TURNS_MAX; turn++) {
      await new Promise<void>((resolve) => setImmediate(resolve));
    }
  }

  protected override async end(): Promise<void> {
    if (this.#owner) await endHost(this.#host);
  }
}

async function startHost(options: HostOptions): Promise<Host> {
  const { bytes = BYTES_DEFAULT, gpa = GPA_DEFAULT, iommu, instruments, log } = options;
  if (!Number.isSafeInteger(bytes) || bytes <= 0 || bytes % MIB !== 0) {
    throw new RangeError(`expected guest memory in whole MiB, got ${bytes} bytes`);
  }
  const machine = await Machine.create({
    parts: { libvfioUser: await ensureLibvfioUser() },
    memory: options.memory ?? 'plain',
    bytes,
    ...(instruments === undefined ? {} : { instruments }),
    ...(log === undefined ? {} : { log }),
  });
  try {
    const memory =
      machine.sealed === undefined
        ? ClientMemory.plain(gpa, bytes)
        : ClientMemory.sealed(gpa, bytes, machine.sealed.path);
    const buffers = iommu === 'buffers' ? new BufferDomain(machine.iommu) : undefined;
    if (buffers !== undefined) memory.listen(buffers);
    return { machine, memory, buffers };
  } catch (error) {
    await machine[Symbol.asyncDispose]();
    throw error;
  }
}

async function endHost({ machine, memory }: Host): Promise<void> {
  // The memory's file goes first: a sealed one is served by the machine's controller.
  memory[Symbol.dispose]();
  await machine[Symbol.asyncDispose]();
}

function plug(device: PciEndpoint, host: Host, address: string | undefined): PluggedFunction {
  const { machine, buffers } = host;
  const rid = address === undefined ? freePlace(machine) : parseRequesterId(address);
  const plugged = machine.plug(device, rid);
  const entry = machine.iommu.table.get(rid);
  if (buffers !== undefined && entry !== undefined) {
    machine.iommu.table.set(rid, { ...entry, domain: buffers.domain });
  }
  return plugged;
}

function freePlace(machine: Machine): RequesterId {
  const taken = new Set(machine.functions.map(({ rid }) => rid));
  for (let device = FIRST_DEVICE; device <= LAST_DEVICE; device++) {
    const rid = requesterId({ bus: 0, device, function: 0 });
    if (!taken.has(rid)) return rid;
  }
  throw new Error(
    `expected a free place from 00:05.0 to 00:1f.0, got none: give the device an address, such as 00:05.1`,
  );
}

/** Why a device may be silent: what happened since it was plugged in. */
function troubles(
  device: PciEndpoint,
  rid: RequesterId,
  faults: FaultLog,
  before: number,
): string | undefined {
  const words: string[] = [];
  if (device instanceof PciFunction && device.failed !== undefined) {
    words.push(`the device has failed: ${device.failed.message}`);
  }
  const refused = faults.since(before).filter((fault) => fault.refused && fault.rid === rid);
  const last = refused.at(-1);
  if (last !== undefined) {
    const { direction, length, iova, reason } = last;
    words.push(
      `the IOMMU refused ${refused.length} of its DMA, at last a ${direction} of ${length} bytes at ` +
        `0x${iova.toString(16)}: ${reason}`,
    );
  }
  return words.length > 0 ? words.join('; ') : undefined;
}
