import type { Doorbells } from '../devices/nvme/doorbells.ts';
import type { Nvme } from '../devices/nvme/nvme.ts';
import { NvmeSubsystem } from '../devices/nvme/subsystem.ts';
import { openStorage } from '../storage/open-storage.ts';
import { atPlace } from './config/config-place.ts';
import type { SubsystemConfig } from './config/subsystem-config.ts';

/** Where a function of a subsystem is. */
export interface FunctionPlace {
  /** The VM's name. */
  readonly vm: string;
  /** On the VM's segment of the host. */
  readonly rid: string;
}

/** A subsystem in a list of them. */
export interface SubsystemSummary {
  readonly name: string;
  readonly virtualFunctions: number;
  /** How many. */
  readonly namespaces: number;
  /** Functions that VMs have, by number. */
  readonly given: readonly ({ readonly function: number } & FunctionPlace)[];
}

/** A subsystem as people look at it. */
export interface SubsystemDescription {
  readonly name: string;
  readonly serial: string;
  readonly virtualFunctions: number;
  /** By number: the physical one is 0. */
  readonly functions: readonly SubsystemFunctionDescription[];
  /** By NSID. */
  readonly namespaces: readonly NamespaceDescription[];
}

export interface SubsystemFunctionDescription {
  readonly function: number;
  /** The VM that has it, and where; null where none has. */
  readonly vm: string | null;
  readonly rid: string | null;
  /** Those that its controller has; where it has none, those that its next one will have. */
  readonly namespaces: readonly number[];
}

export interface NamespaceDescription {
  readonly nsid: number;
  readonly file: string;
  readonly bytes: number;
  /** As it was last formatted. */
  readonly blockBytes: number;
  readonly readOnly: boolean;
  /** The function that it belongs to; null for nobody's. */
  readonly function: number | null;
  /** The function whose controller has it, and the VM that has that; null where none has. */
  readonly heldBy: number | null;
  readonly vm: string | null;
  /** The two differ, until the function that has a controller is moved, or given back. */
  readonly pending: boolean;
}

/** A subsystem that is served: its disks are open from its beginning to its end, whoever has its functions. */
export class ServedSubsystem implements AsyncDisposable {
  readonly config: SubsystemConfig;
  readonly nvm: NvmeSubsystem;
  readonly #disks: AsyncDisposableStack;
  #ended = false;

  /** @throws ConfigError: a disk that is missing, or in use */
  static async open(
    config: SubsystemConfig,
    log: (message: string) => void,
  ): Promise<ServedSubsystem> {
    await using disks = new AsyncDisposableStack();
    const namespaces = [];
    for (const { place, file, readOnly, function: owner } of config.namespaces) {
      const storage = await atPlace(place, () => openStorage(file, { readOnly, log }));
      disks.defer(() => storage.close());
      namespaces.push({ storage, ...(owner === undefined ? {} : { function: owner.value }) });
    }
    const { name: serial, virtualFunctions } = config;
    const nvm = new NvmeSubsystem({ serial, virtualFunctions, namespaces });
    return new ServedSubsystem(config, nvm, disks.move());
  }

  private constructor(config: SubsystemConfig, nvm: NvmeSubsystem, disks: AsyncDisposableStack) {
    this.config = config;
    this.nvm = nvm;
    this.#disks = disks;
  }

  get name(): string {
    return this.config.name;
  }

  /** The controller of a function that no VM has. @throws RangeError; Error where one has it, or this has ended */
  take(number: number, doorbells: Doorbells): Nvme {
    if (this.#ended)
      throw new Error(`expected a subsystem that stays, got ${this.name}, which ends`);
    if (this.nvm.given.includes(number)) {
      throw new Error(
        `expected a function that no VM has, got function ${number} of ${this.name}, which one has: ` +
          'sealbus bind moves it, sealbus vm remove gives it back',
      );
    }
    return this.nvm.controller(number, { doorbells });
  }

  /** @param places where its functions are, by number */
  summarize(places: ReadonlyMap<number, FunctionPlace>): SubsystemSummary {
    const { name, virtualFunctions, namespaces } = this.config;
    const given = [...places]
      .sort(([one], [other]) => one - other)
      .map(([number, place]) => ({ function: number, ...place }));
    return { name, virtualFunctions, namespaces: namespaces.length, given };
  }

  /** @param places where its functions are, by number */
  describe(places: ReadonlyMap<number, FunctionPlace>): SubsystemDescription {
    const { name, nvm, config } = this;
    const { namespaces, virtualFunctions } = nvm;
    const given = new Set(nvm.given);
    const functions = Array.from({ length: virtualFunctions + 1 }, (_, number) => {
      const { vm = null, rid = null } = places.get(number) ?? {};
      const its = namespaces.filter(
        ({ owner, holder }) => (given.has(number) ? holder : owner) === number,
      );
      return { function: number, vm, rid, namespaces: its.map(({ nsid }) => nsid) };
    });
    return {
      ...{ name, serial: name, virtualFunctions, functions },
      namespaces: namespaces.map(({ nsid, storage, blockBytes, owner, holder }, index) => ({
        ...{ nsid, file: config.namespaces[index]?.file ?? '', bytes: storage.bytes, blockBytes },
        ...{ readOnly: storage.readOnly, function: owner ?? null, heldBy: holder ?? null },
        vm: (holder === undefined ? undefined : functions[holder]?.vm) ?? null,
        pending: owner !== holder && (holder !== undefined || given.has(owner ?? -1)),
      })),
    };
  }

  /** Closes its disks; nobody should have a function of it any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true;
    await this.#disks.disposeAsync();
  }
}
