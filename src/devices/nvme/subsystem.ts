import type { BlockStorage } from '../../storage/block-storage.ts';
import type { Doorbells } from './doorbells.ts';
import type { BlockBytes } from './namespace.ts';
import { Nvme, type NvmeOptions } from './nvme.ts';
import { NAMESPACES_MAX } from './nvme-options.ts';
import { type SubsystemPlace, VIRTUAL_FUNCTIONS_MAX } from './subsystem-place.ts';

export interface SubsystemNamespace {
  /** The caller's to close, when the functions are gone. */
  readonly storage: BlockStorage;
  /** Default 512. */
  readonly blockBytes?: BlockBytes;
  /** The function that has it; nobody unless told. */
  readonly function?: number;
}

/** A namespace as it stands now. */
export interface NamespaceState {
  readonly nsid: number;
  readonly storage: BlockStorage;
  /** As it was last formatted. */
  readonly blockBytes: BlockBytes;
  /** The function that it belongs to. */
  readonly owner: number | undefined;
  /** The function whose controller has it. Behind the owner until that controller's end. */
  readonly holder: number | undefined;
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
 * A namespace belongs to one function at a time, and is in one controller at a time: a disk that two VMs share would
 * be a way between them.
 *
 * There is no SR-IOV capability (PCIe base spec §9.3.3) in the physical function. Its guest would find in it
 * virtual functions on its own bus, and none of them is there: each is in the VM that it was given to, and who has
 * which is the host's to say. A guest that has the physical function sees them in Identify (CNS 15h).
 */
export class NvmeSubsystem {
  readonly virtualFunctions: number;
  readonly #options: SubsystemOptions;
  /** By NSID - 1. */
  readonly #namespaces: {
    readonly storage: BlockStorage;
    blockBytes: BlockBytes;
    owner: number | undefined;
  }[];
  /** The controller that each function has now. */
  readonly #controllers = new Map<number, FunctionOfSubsystem>();

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
    if (namespaces.length > NAMESPACES_MAX) {
      throw new RangeError(
        `expected at most ${NAMESPACES_MAX} namespaces, got ${namespaces.length}`,
      );
    }
    this.#options = options;
    this.virtualFunctions = virtualFunctions;
    this.#namespaces = namespaces.map(({ storage, blockBytes = 512, function: owner }) => {
      if (owner !== undefined) this.#check(owner);
      return { storage, blockBytes, owner };
    });
  }

  /** By rising NSID. */
  get namespaces(): readonly NamespaceState[] {
    const held = new Map<number, { readonly holder: number; readonly blockBytes: BlockBytes }>();
    for (const [holder, { namespaces }] of this.#controllers) {
      for (const { nsid, blockBytes } of namespaces) held.set(nsid, { holder, blockBytes });
    }
    return this.#namespaces.map(({ storage, blockBytes, owner }, index) => {
      const nsid = index + 1;
      return { nsid, storage, blockBytes, owner, holder: undefined, ...held.get(nsid) };
    });
  }

  /** Functions that have a controller now, by rising number. */
  get given(): readonly number[] {
    return [...this.#controllers.keys()].sort((one, other) => one - other);
  }

  /** The function that a namespace belongs to. @throws RangeError where there is no such namespace */
  ownerOf(nsid: number): number | undefined {
    return this.#namespaceOf(nsid).owner;
  }

  /**
   * Gives a namespace to a function, or to none. A controller has its namespaces from its beginning to its end: this
   * holds for the next one of the function, which is its first, or the one after it was moved or given back.
   * @throws RangeError; Error where another function has it: take it from that first, and move that or have it given
   *   back
   */
  assign(nsid: number, owner: number | undefined): void {
    const namespace = this.#namespaceOf(nsid);
    if (owner !== undefined) {
      this.#check(owner);
      const before = namespace.owner;
      if (before !== undefined && before !== owner) {
        throw new Error(
          `expected a namespace that no other function has, got ${nsid}, which is function ${before}'s: ` +
            'assign it to none first',
        );
      }
      const { holder } = this.namespaces[nsid - 1] ?? {};
      if (holder !== undefined && holder !== owner) {
        throw new Error(
          `expected a namespace that no other function has, got ${nsid}, which is in the controller that ` +
            `function ${holder} has now: move that function or give it back first`,
        );
      }
    }
    namespace.owner = owner;
  }

  /**
   * The controller of a function, to be plugged in. One at a time: the next one is what the function is handed over
   * as, or what this makes once it was given back.
   * @param doorbells for the VM that it goes to, and those that it is moved to; default: as all have it
   * @throws RangeError where there is no such function; Error where it has a controller
   */
  controller(number: number, { doorbells }: { readonly doorbells?: Doorbells } = {}): Nvme {
    this.#check(number);
    if (this.#controllers.has(number)) {
      throw new Error(
        `expected a function that has no controller yet, got ${number}: move it, or give it back first`,
      );
    }
    return this.#make(
      number,
      doorbells === undefined ? this.#options : { ...this.#options, doorbells },
    );
  }

  /**
   * Takes a function back that was pulled out of its VM: its controller is reset, no storage works for it any more
   * when this resolves, and {@link controller} makes the next one, with nothing of this one.
   * @throws RangeError where there is no such function; Error where it has no controller
   */
  async giveBack(number: number): Promise<void> {
    this.#check(number);
    const controller = this.#controllers.get(number);
    if (controller === undefined) {
      throw new Error(`expected a function that has a controller, got ${number}, which has none`);
    }
    await controller.rest();
    this.#end(number, controller);
  }

  /** Its place is free from here on, and its namespaces keep the block size that it gave them. */
  #end(number: number, controller: Nvme): void {
    if (this.#controllers.get(number) !== controller) {
      throw new Error(
        `expected the controller that function ${number} has now, got one that it had before`,
      );
    }
    this.#controllers.delete(number);
    for (const { nsid, blockBytes } of controller.namespaces) {
      this.#namespaceOf(nsid).blockBytes = blockBytes;
    }
  }

  #make(number: number, options: SubsystemOptions): Nvme {
    const { virtualFunctions: _count, namespaces: _all, ...own } = options;
    const namespaces = this.#namespaces.flatMap(({ storage, blockBytes, owner }, index) =>
      owner === number ? [{ nsid: index + 1, storage, blockBytes }] : [],
    );
    const made = new FunctionOfSubsystem(
      { ...own, namespaces, place: this.#place(number) },
      (before) => {
        this.#end(number, before);
        return this.#make(number, options);
      },
    );
    this.#controllers.set(number, made);
    return made;
  }

  #place(number: number): SubsystemPlace {
    const controllerId = number + 1;
    if (number > 0) return { controllerId, role: 'secondary', secondaries: [] };
    const controllers = this.#controllers;
    const secondaries = Array.from({ length: this.virtualFunctions }, (_, index) => ({
      controllerId: index + 2,
      virtualFunction: index + 1,
      get online() {
        return controllers.has(index + 1);
      },
    }));
    return { controllerId, role: 'primary', secondaries };
  }

  #check(number: number): void {
    if (!Number.isInteger(number) || number < 0 || number > this.virtualFunctions) {
      throw new RangeError(`expected a function from 0 to ${this.virtualFunctions}, got ${number}`);
    }
  }

  #namespaceOf(nsid: number) {
    const found = Number.isInteger(nsid) ? this.#namespaces[nsid - 1] : undefined;
    if (found !== undefined) return found;
    throw new RangeError(`expected an NSID from 1 to ${this.#namespaces.length}, got ${nsid}`);
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

  rest(): Promise<void> {
    return this.atRest();
  }
}
