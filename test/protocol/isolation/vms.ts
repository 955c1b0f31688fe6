import { Vmm } from '../../../src/client/vmm.ts';
import type { Instrument } from '../../../src/machine/instrument.ts';
import {
  Machine,
  type MachineOptions,
  type PluggedFunction,
} from '../../../src/machine/machine.ts';
import { Platform } from '../../../src/machine/platform.ts';
import type { PciEndpoint } from '../../../src/pci/endpoint.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { ensureLibvfioUser } from '../../../src/setup/ensure-libvfio-user.ts';

export const BYTES = 2 * 2 ** 20;
/** Where each VM's memory begins. */
export const GPA = 0x10_0000;
export const PAGE = 4096;

/** VMs of one platform; all of it ends with this, the last one first. */
export class Vms implements AsyncDisposable {
  readonly platform: Platform;
  readonly #ends: AsyncDisposable[];

  private constructor(platform: Platform) {
    this.platform = platform;
    this.#ends = [platform];
  }

  static async on(
    memory: 'sealed' | 'plain',
    log: (message: string) => void = () => {},
  ): Promise<Vms> {
    return new Vms(await Platform.create({ memory, log }));
  }

  machine(...instruments: readonly Instrument[]): Promise<Machine> {
    return this.machineWith({ instruments });
  }

  async machineWith(options: Partial<MachineOptions>): Promise<Machine> {
    const { platform } = this;
    const machine = await Machine.create({
      ...{ platform, parts: { libvfioUser: await ensureLibvfioUser() } },
      ...{ memory: platform.mode, bytes: BYTES, ...options },
    });
    this.#ends.push(machine);
    return machine;
  }

  /** A function in a VM, whose VMM, a client, has lent it the VM's memory. */
  async plug(machine: Machine, endpoint: PciEndpoint, place = '00:05.0') {
    return await this.connect(machine.plug(endpoint, parseRequesterId(place)));
  }

  async connect(plugged: PluggedFunction, options: { readonly enable?: boolean } = {}) {
    const file = plugged.machine.sealed?.path;
    const vmm = await Vmm.connect(plugged.server.socketPath, {
      ...{ bytes: BYTES, gpa: GPA, ...options },
      ...(file === undefined ? {} : { file }),
    });
    this.#ends.push(vmm);
    return { plugged, vmm };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const end of this.#ends.splice(0).reverse()) await end[Symbol.asyncDispose]();
  }
}
