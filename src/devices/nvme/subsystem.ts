import type { BlockStorage } from '../../storage/block-storage.ts';
import type { BlockBytes } from './namespace.ts';
import { Nvme, type NvmeOptions } from './nvme.ts';
import type { SubsystemPlace } from './subsystem-place.ts';

export const VIRTUAL_FUNCTIONS_MAX = 64;

export interface SubsystemNamespace {
  /** The caller's to close, when the functions are gone. */
  readonly storage: BlockStorage;
  /** Default 512. */
  readonly blockBytes?: BlockBytes;
  /** The function that has it; nobody unless told. */
  readonly function?: number;
}

/** Storage buffers are each controller's own: what one VM read must be in no other's. */
export interface SubsystemOptions
  extends Omit<NvmeOptions, 'namespaces' | 'place' | 'buffers' | 'clock'> {
  /** Beside the physical one: 0 to 64. */
  readonly virtualFunctions: number;
  /** By NSID, from 1: at most 256. */
  readonly namespaces: readonly SubsystemNamespace[];
}

/**
 * An NVM subsystem behind several PCI functions, as an SR-IOV device has it (NVMe 1.4 §8.5): function 0 is
 * the physical one with the primary controller, those from 1 on are virtual ones with secondary
 * controllers. They share serial number and NQN. Each is a function of its own for whoever plugs it in, with
 * a requester ID, a key slot and a VM of its own.
 *
 * A namespace belongs to one function at a time: a disk that two VMs share would be a way between them.
 *
 * There is no SR-IOV capability (PCIe base spec §9.3.3) in the physical function. Its guest would find in it
 * virtual functions on its own bus, and none of them is there: each is in the VM that it was given to, and who has
 * which is the host's to say. A guest that has the physical function sees them in Identify (CNS 15h).
 */
export class NvmeSubsystem {
  readonly virtualFunctions: number;
  readonly #options: SubsystemOptions;
  /** The function that has each namespace, by NSID - 1. */
  readonly #owners: (number | undefined)[];
  readonly #made = new Set<number>();

  /** @throws RangeError where there are too many functions or namespaces, or one names no function */
  constructor(options: SubsystemOptions) {
    const { virtualFunctions, namespaces } = options;
    if (
      !Number.isInteger(virtualFunctions) ||
      virtualFunctions < 0 ||
      virtualFunctions > VIRTUAL_FUNCTIONS_MAX
    ) {
      throw new RangeError(
        `expected 0 to ${VIRTUAL_FUNCTIONS_MAX} virtual functions, got ${virtualFunctions}`,
      );
    }
    this.#options = options;
    this.virtualFunctions = virtualFunctions;
    this.#owners = namespaces.map(({ function: owner }) => {
      if (owner !== undefined) this.#check(owner);
      return owner;
    });
  }

  /** The function that a namespace belongs to. @throws RangeError where there is no such namespace */
  ownerOf(nsid: number): number | undefined {
    return this.#owners[this.#index(nsid)];
  }

  /**
   * Gives a namespace to a function, or to none. A controller has its namespaces from its beginning to its end: this
   * holds for the next one of the function, after it has been moved. @throws RangeError, Error where another
   * function has it: take it from that first, and move that
   */
  assign(nsid: number, owner: number | undefined): void {
    const index = this.#index(nsid);
    const before = this.#owners[index];
    if (owner !== undefined) {
      this.#check(owner);
      if (before !== undefined && before !== owner) {
        throw new Error(
          `expected a namespace that no other function has, got ${nsid}, which is function ${before}'s: ` +
            'assign it to undefined first',
        );
      }
    }
    this.#owners[index] = owner;
  }

  /**
   * The controller of a function, to be plugged in. Once: the next one is what the function is handed over as.
   * @throws RangeError where there is no such function; Error where it was made before
   */
  controller(number: number): Nvme {
    this.#check(number);
    if (this.#made.has(number)) {
      throw new Error(
        `expected a function whose controller was not made yet, got ${number}: move it instead`,
      );
    }
    this.#made.add(number);
    return this.#controller(number, new Map());
  }

  /** @param formats block sizes that namespaces were given meanwhile */
  #controller(number: number, formats: ReadonlyMap<number, BlockBytes>): Nvme {
    const { virtualFunctions: _count, namespaces: all, ...options } = this.#options;
    const namespaces = all.flatMap(({ storage, blockBytes = 512 }, index) => {
      const nsid = index + 1;
      if (this.#owners[index] !== number) return [];
      return [{ nsid, storage, blockBytes: formats.get(nsid) ?? blockBytes }];
    });
    const next = (before: Nvme) =>
      this.#controller(
        number,
        new Map(before.namespaces.map(({ nsid, blockBytes }) => [nsid, blockBytes])),
      );
    return new FunctionOfSubsystem({ ...options, namespaces, place: this.#place(number) }, next);
  }

  #place(number: number): SubsystemPlace {
    const controllerId = number + 1;
    if (number > 0) return { controllerId, role: 'secondary', secondaries: [] };
    const secondaries = Array.from({ length: this.virtualFunctions }, (_, index) => ({
      controllerId: index + 2,
      virtualFunction: index + 1,
    }));
    return { controllerId, role: 'primary', secondaries };
  }

  #check(number: number): void {
    if (!Number.isInteger(number) || number < 0 || number > this.virtualFunctions) {
      throw new RangeError(`expected a function from 0 to ${this.virtualFunctions}, got ${number}`);
    }
  }

  #index(nsid: number): number {
    if (!Number.isInteger(nsid) || nsid < 1 || nsid > this.#owners.length) {
      throw new RangeError(`expected an NSID from 1 to ${this.#owners.length}, got ${nsid}`);
    }
    return nsid - 1;
  }
}

/** A controller whose successor has the namespaces that its function has by then. */
class FunctionOfSubsystem extends Nvme {
  readonly #next: (before: Nvme) => Nvme;

  constructor(options: NvmeOptions, next: (before: Nvme) => Nvme) {
    super(options);
    this.#next = next;
  }

  override async handOver(): Promise<Nvme> {
    await this.atRest();
    return this.#next(this);
  }
}
