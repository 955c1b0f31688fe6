import type { Doorbells } from '../devices/nvme/doorbells.ts';
import type { PciEndpoint } from '../pci/endpoint.ts';
import { atPlace, ConfigError } from './config/config-place.ts';
import type { SubsystemConfig, SubsystemFunctionConfig } from './config/subsystem-config.ts';
import type { KnownSubsystem } from './config/subsystem-conflicts.ts';
import type { Recorder } from './record/recorder.ts';
import {
  type FunctionPlace,
  type NamespaceDescription,
  ServedSubsystem,
  type SubsystemDescription,
  type SubsystemSummary,
} from './served-subsystem.ts';

export interface SubsystemsOptions {
  readonly recorder: Recorder;
  readonly log: (message: string) => void;
  /** Where a subsystem's functions are, by number; of VMs that come or go none is in it. */
  readonly placesOf: (subsystem: string) => ReadonlyMap<number, FunctionPlace>;
}

/** The NVM subsystems of a host, by name: VMs have their functions, and come and go while the disks stay open. */
export class Subsystems implements AsyncDisposable {
  readonly #options: SubsystemsOptions;
  readonly #served = new Map<string, ServedSubsystem>();
  /** Names of those that come or go. */
  readonly #busy = new Set<string>();
  #closed = false;

  constructor(options: SubsystemsOptions) {
    this.#options = options;
  }

  /** What a configuration may name, beside its own. */
  get known(): readonly KnownSubsystem[] {
    return [...this.#served.values()].map(({ config }) => config);
  }

  /** In the order in which they came. */
  get all(): readonly SubsystemSummary[] {
    return [...this.#served.values()].map((one) => one.summarize(this.#options.placesOf(one.name)));
  }

  /** @throws Error where none is called so */
  describe(name: string): SubsystemDescription {
    return this.#find(name).describe(this.#options.placesOf(name));
  }

  /**
   * Opens the disks of each, or of none. @returns their names
   * @throws ConfigError: a name that is taken, a disk that is missing or in use
   */
  async addAll(configs: readonly SubsystemConfig[]): Promise<readonly string[]> {
    const added: string[] = [];
    try {
      for (const config of configs) {
        await this.#add(config);
        added.push(config.name);
      }
      return added;
    } catch (error) {
      // Somebody's VM may have a function of one by now. The first error is the outcome.
      for (const name of added) await this.remove(name).catch(() => {});
      throw error;
    }
  }

  /**
   * Closes its disks. @throws Error where none is called so, or a VM has a function of it
   */
  async remove(name: string): Promise<void> {
    const found = this.#find(name);
    const { given } = found.nvm;
    if (given.length > 0) {
      const places = this.#options.placesOf(name);
      const whose = given.map((number) => {
        const place = places.get(number);
        return `function ${number} is ${place === undefined ? "a VM's that changes" : `${place.vm}'s`}`;
      });
      throw new Error(
        `expected a subsystem of which no VM has a function, got ${name}: ${whose.join(', ')}`,
      );
    }
    this.#busy.add(name);
    this.#served.delete(name);
    try {
      await found[Symbol.asyncDispose]();
      this.#options.recorder.subsystem(name, { reason: 'removed' });
    } finally {
      this.#busy.delete(name);
    }
  }

  /**
   * Gives a namespace to a function, or to none. The function's next controller has it: see NvmeSubsystem.assign.
   * @throws Error where there is no such subsystem, or another function has the namespace; RangeError
   */
  assign(name: string, nsid: number, owner: number | undefined): NamespaceDescription {
    const { nvm } = this.#find(name);
    const before = nvm.ownerOf(nsid);
    nvm.assign(nsid, owner);
    if (before !== owner) {
      this.#options.recorder.subsystem(name, {
        ...{ reason: 'assigned', nsid, function: owner ?? null },
      });
    }
    const described = this.describe(name).namespaces[nsid - 1];
    if (described === undefined) throw new RangeError(`expected namespace ${nsid}, got none`);
    return described;
  }

  /**
   * Takes a function for a VM.
   * @param opened takes what gives the function back, when it is in no VM any more
   * @throws ConfigError where there is no such subsystem or function, or a VM has it
   */
  async take(
    { subsystem, number }: SubsystemFunctionConfig,
    doorbells: Doorbells,
    opened: (close: () => Promise<void>) => void,
  ): Promise<PciEndpoint> {
    const found = await atPlace(subsystem.place, () => this.#find(subsystem.value));
    const controller = await atPlace(number.place, () => found.take(number.value, doorbells));
    opened(() => found.nvm.giveBack(number.value));
    return controller;
  }

  /** All of them, when the VMs are gone. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    await using all = new AsyncDisposableStack();
    for (const [name, served] of this.#served) {
      all.adopt(served, async () => {
        await served[Symbol.asyncDispose]();
        this.#options.recorder.subsystem(name, { reason: 'removed' });
      });
    }
    this.#served.clear();
  }

  async #add(config: SubsystemConfig): Promise<void> {
    const { name, place } = config;
    if (this.#served.has(name) || this.#busy.has(name)) {
      throw new ConfigError(
        place,
        `expected a new name, got ${name}, which is a subsystem's already`,
      );
    }
    this.#busy.add(name);
    try {
      const log = (message: string) => this.#options.log(`subsystem ${name}: ${message}`);
      const served = await ServedSubsystem.open(config, log);
      if (this.#closed) {
        await served[Symbol.asyncDispose]();
        throw new ConfigError(place, 'expected a host that is up, got one that ends');
      }
      this.#served.set(name, served);
      this.#options.recorder.subsystem(name, { reason: 'added' });
    } finally {
      this.#busy.delete(name);
    }
  }

  #find(name: string): ServedSubsystem {
    const found = this.#served.get(name);
    if (found !== undefined) return found;
    const there = [...this.#served.keys()].join(', ') || 'none';
    throw new Error(`expected the name of a subsystem (${there}), got ${JSON.stringify(name)}`);
  }
}
