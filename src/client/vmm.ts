import type { PciEndpoint, PciIdentity } from '../pci/endpoint.ts';
import type { RegisterDescription } from '../pci/register/description.ts';
import type { InterruptKind, VfioUserClient } from '../vfio-user/client/client.ts';
import type { InterruptEvent } from '../vfio-user/client/interrupt-event.ts';
import { REGION_CONFIG } from '../vfio-user/protocol.ts';
import { BarRegion } from './bar-region.ts';
import { BYTES_DEFAULT, ClientMemory, GPA_DEFAULT } from './client-memory.ts';
import { ConfigRegion } from './config-region.ts';
import { connected } from './connecting.ts';
import type { HostedVmm, HostOptions } from './hosted-vmm.ts';
import { type InterruptChoice, Interrupts } from './interrupts.ts';

const BARS = 6;
const TIMEOUT_MS = 5000;

export interface VmmOptions {
  /** Size of guest memory, in whole pages. Default 64 MiB; it takes up what is written. */
  readonly bytes?: number;
  /** Guest-physical address of its first byte, in whole pages. Default 1 MiB. */
  readonly gpa?: number;
  /** Which interrupts to take. Default `best`: MSI-X, else MSI, else INTA#, as far as the device has any. */
  readonly interrupts?: InterruptChoice;
  /** How many vectors to take at most. Default 32. */
  readonly vectors?: number;
  /**
   * Whether the function is enabled at once: BARs decoded, bus mastering, interrupts. Default true;
   * else that is for {@link Vmm.enable}.
   */
  readonly enable?: boolean;
  /** For each answer of the device, and each wait for an interrupt. Default 5000. */
  readonly timeoutMs?: number;
}

export interface ConnectOptions extends VmmOptions {
  /** How long to try where nobody listens yet, as while a server starts. Default 0: one try. */
  readonly connectMs?: number;
  /**
   * How the device reaches memory: `mapped` (default) gives the server a descriptor, with `message` it
   * has to ask for every byte.
   */
  readonly dma?: 'mapped' | 'message';
  /**
   * A file that is guest memory, `bytes` long: the RAM file of a VM, as QEMU would map it. Default: memory of
   * its own, which nothing encrypts.
   */
  readonly file?: string;
}

/** What a Vmm is made of, and its subclasses say. */
export interface VmmSetting {
  readonly socketPath: string;
  readonly memory: ClientMemory;
  readonly options: ConnectOptions;
  /** What the device says of its registers, of a device of ours. */
  readonly registerMap?: PciEndpoint['registerMap'];
  /** What may be said about an interrupt that did not come. */
  readonly why?: () => string | undefined;
}

/** What a server told of its device, and the connection that is open to it. */
interface Attached {
  readonly client: VfioUserClient;
  readonly regionSizes: readonly number[];
  readonly offered: Readonly<Record<InterruptKind, number>>;
}

/** A BAR as the device's own code has it, where the device has such a property. */
type FaceOf<Device, Name extends string> = Name extends keyof Device ? Device[Name] : unknown;

/**
 * Plays the VMM of one vfio-user device, without a guest: memory, BARs, configuration space, interrupts
 * and resets, as a driver would use them.
 *
 *     await using vmm = await Vmm.host(new Adder());
 *     const buffer = vmm.memory.allocate(Uint8Array.of(1, 2, 3));
 *     await vmm.bar0.write('source', buffer.gpa);
 *     await vmm.bar0.write('length', buffer.length);
 *     await vmm.bar0.write('control', { go: true });
 *     await vmm.interrupt(0).next();
 *     expect(await vmm.bar0.read('sum')).toBe(6);
 *
 * @typeParam Device whose registers have names here; unknown of a server's.
 */
export class Vmm<Device = unknown> implements AsyncDisposable {
  /** Where the device's server listens. */
  readonly socketPath: string;
  readonly memory: ClientMemory;
  readonly #setting: VmmSetting;
  #attached: Attached | undefined;
  #interrupts: Interrupts | undefined;
  #config: ConfigRegion | undefined;
  #bars: readonly BarRegion[] = [];
  #ended = false;

  /**
   * Serves a device in this process, on a machine without a guest, and connects to it.
   * @throws as Machine.create; as {@link connect}
   */
  static async host<Device extends PciEndpoint>(
    device: Device,
    options: HostOptions = {},
  ): Promise<HostedVmm<Device>> {
    // Loaded when it is first used: who drives somebody else's server needs no machine.
    const { HostedVmm } = await import('./hosted-vmm.ts');
    return await HostedVmm.start(device, options);
  }

  /**
   * Connects to a server of vfio-user, whoever wrote it, and lends it memory.
   * @throws SystemError where nobody listens; VfioUserError with what the server refuses;
   *   ConnectionLost; Error where it does not answer in time, or breaks the protocol
   */
  static async connect(socketPath: string, options: ConnectOptions = {}): Promise<Vmm> {
    const { gpa = GPA_DEFAULT, bytes = BYTES_DEFAULT, file } = options;
    const memory =
      file === undefined ? ClientMemory.plain(gpa, bytes) : ClientMemory.sealed(gpa, bytes, file);
    const vmm = new Vmm({ socketPath, memory, options });
    try {
      await vmm.open();
      return vmm;
    } catch (error) {
      await vmm[Symbol.asyncDispose]();
      throw error;
    }
  }

  protected constructor(setting: VmmSetting) {
    this.#setting = setting;
    this.socketPath = setting.socketPath;
    this.memory = setting.memory;
  }

  /** The protocol itself, for what has no name here. @throws Error where there is no connection */
  get client(): VfioUserClient {
    return this.#now().client;
  }

  get connected(): boolean {
    return this.#attached !== undefined && this.#attached.client.connection.lost === undefined;
  }

  get config(): ConfigRegion {
    return present(this.#config);
  }

  get bar0(): BarRegion<FaceOf<Device, 'bar0'>> {
    return this.bar(0) as BarRegion<FaceOf<Device, 'bar0'>>;
  }

  get bar1(): BarRegion<FaceOf<Device, 'bar1'>> {
    return this.bar(1) as BarRegion<FaceOf<Device, 'bar1'>>;
  }

  get bar2(): BarRegion<FaceOf<Device, 'bar2'>> {
    return this.bar(2) as BarRegion<FaceOf<Device, 'bar2'>>;
  }

  get bar3(): BarRegion<FaceOf<Device, 'bar3'>> {
    return this.bar(3) as BarRegion<FaceOf<Device, 'bar3'>>;
  }

  get bar4(): BarRegion<FaceOf<Device, 'bar4'>> {
    return this.bar(4) as BarRegion<FaceOf<Device, 'bar4'>>;
  }

  get bar5(): BarRegion<FaceOf<Device, 'bar5'>> {
    return this.bar(5) as BarRegion<FaceOf<Device, 'bar5'>>;
  }

  /** @throws RangeError where there is no such index; one that the device has not has the size 0 */
  bar(index: number): BarRegion {
    const bar = this.#bars[index];
    if (bar === undefined)
      throw new RangeError(`expected a BAR from 0 to ${BARS - 1}, got ${index}`);
    return bar;
  }

  /** What the header of configuration space says. */
  identity(): Promise<PciIdentity> {
    return this.config.identity();
  }

  /** The kind of interrupts that are taken. */
  get interruptKind(): InterruptKind | 'none' {
    return present(this.#interrupts).kind;
  }

  /** @throws RangeError where the vector is not taken */
  interrupt(vector = 0): InterruptEvent {
    return present(this.#interrupts).of(vector);
  }

  /** Has the function decode its BARs, make DMA and send interrupts, as a driver's probe does. */
  async enable(): Promise<void> {
    const interrupts = present(this.#interrupts);
    await interrupts.enable(this.client, this.config);
    await this.config.enableFunction(interrupts.kind === 'intx');
  }

  /**
   * Resets the device as the VMM does with the whole machine. All that {@link enable} did is off
   * after it, as after power-on.
   */
  async reset(): Promise<void> {
    await present(this.#interrupts).disable(this.client);
    await this.client.reset();
  }

  /**
   * Resets the function as its driver does. All that {@link enable} did is off after it.
   * @throws Error where the function has no such reset
   */
  async functionLevelReset(): Promise<void> {
    await present(this.#interrupts).disable(this.client);
    await this.config.functionLevelReset();
  }

  /** Leaves the device, as a VMM that ends does: it is reset, and memory taken back. */
  async disconnect(): Promise<void> {
    const attached = this.#attached;
    this.#attached = undefined;
    this.#interrupts?.end(new Error('the Vmm has disconnected'));
    attached?.client.close();
  }

  /** Comes back after {@link disconnect}, or after the server has ended. @throws as {@link connect} */
  async reconnect(): Promise<void> {
    await this.disconnect();
    await this.open();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    await this.disconnect();
    this.#interrupts?.[Symbol.dispose]();
    await this.end();
  }

  /** Once, when the connection is gone. */
  protected async end(): Promise<void> {
    this.memory[Symbol.dispose]();
  }

  /** @throws as {@link connect}; nothing is open then */
  protected async open(): Promise<void> {
    if (this.#ended) throw new Error('expected a Vmm that has not ended, got one that has');
    const { options } = this.#setting;
    const client = await connected(this.socketPath, options.connectMs ?? 0, {
      timeoutMs: options.timeoutMs ?? TIMEOUT_MS,
      memory: this.memory,
      onLost: (why) => this.#interrupts?.end(why),
    });
    try {
      this.#attached = await attach(client);
      this.#takeRegions(this.#attached);
      this.#takeInterrupts(this.#attached);
      await this.#lendMemory(client);
      if (options.enable ?? true) await this.enable();
    } catch (error) {
      this.#attached = undefined;
      client.close();
      this.#interrupts?.[Symbol.dispose]();
      throw error;
    }
  }

  #takeRegions({ regionSizes }: Attached): void {
    const client = () => this.client;
    const place = (name: string, index: number) => {
      return { name, index, size: regionSizes[index] ?? 0, client };
    };
    this.#config = new ConfigRegion(place('configuration space', REGION_CONFIG));
    const registers = (bar: number): readonly RegisterDescription[] | undefined =>
      this.#setting.registerMap?.[bar];
    this.#bars = Array.from(
      { length: BARS },
      (_, bar) => new BarRegion(place(`BAR${bar}`, bar), registers(bar)),
    );
  }

  #takeInterrupts({ offered }: Attached): void {
    const { options, why = () => undefined } = this.#setting;
    this.#interrupts?.[Symbol.dispose]();
    this.#interrupts = new Interrupts(offered, {
      choice: options.interrupts ?? 'best',
      vectors: options.vectors,
      timeoutMs: options.timeoutMs ?? TIMEOUT_MS,
      why,
    });
  }

  async #lendMemory(client: VfioUserClient): Promise<void> {
    const { gpa, bytes: size, descriptor } = this.memory;
    const byMessage = this.#setting.options.dma === 'message';
    await client.mapDma({ gpa, size, ...(byMessage ? {} : { file: { descriptor, offset: 0 } }) });
  }

  #now(): Attached {
    if (this.#attached !== undefined) return this.#attached;
    throw new Error(
      this.#ended
        ? 'expected a Vmm that is connected, got one that has ended'
        : 'expected a Vmm that is connected, got one that has disconnected: reconnect() comes back',
    );
  }
}

/** Asks the server what its device is. */
async function attach(client: VfioUserClient): Promise<Attached> {
  const { regions } = await client.deviceInfo();
  if (regions <= REGION_CONFIG) {
    throw new Error(
      `expected a PCI device, whose configuration space is region ${REGION_CONFIG}, got one of ${regions} regions`,
    );
  }
  const indices = Array.from({ length: REGION_CONFIG + 1 }, (_, index) => index);
  const [infos, intx, msi, msix] = await Promise.all([
    Promise.all(indices.map((index) => client.regionInfo(index))),
    ...(['intx', 'msi', 'msix'] as const).map((kind) => client.interruptCount(kind)),
  ] as const);
  const offered = { intx: intx ?? 0, msi: msi ?? 0, msix: msix ?? 0 };
  return { client, regionSizes: infos.map(({ size }) => size), offered };
}

/** What {@link Vmm.open} has put there before anybody gets the Vmm. */
function present<Part>(part: Part | undefined): Part {
  if (part === undefined) throw new Error('expected a Vmm that was connected, got a new one');
  return part;
}
