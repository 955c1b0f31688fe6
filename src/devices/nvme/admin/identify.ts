import type { Command } from '../command.ts';
import type { Namespace } from '../namespace.ts';
import { type Outcome, Status } from '../status.ts';
import type { AdminAnswer, AdminHost } from './admin-host.ts';
import { BROADCAST_NSID } from './capabilities.ts';
import { identifyControllerData, type PciVendor } from './identify-controller.ts';
import { blocksInUse, identifyNamespaceData } from './identify-namespace.ts';
import {
  identificationDescriptors,
  type NamespaceIdentifiers,
  namespaceIdentifiers,
} from './namespace-identifiers.ts';
import { namespaceOf } from './namespace-lookup.ts';
import type { ResetCount } from './reset-count.ts';
import { primaryControllerData, secondaryControllerData } from './secondary-controllers.ts';
import { list, structure, u16, u32 } from './structure.ts';

/** Controller or Namespace Structure, NVMe 1.4 §5.15.1: those answered here. */
const Cns = {
  namespace: 0x00,
  controller: 0x01,
  activeNamespaces: 0x02,
  namespaceIdentification: 0x03,
  allocatedNamespaces: 0x10,
  allocatedNamespace: 0x11,
  attachedControllers: 0x12,
  controllers: 0x13,
  primaryController: 0x14,
  secondaryControllers: 0x15,
} as const;

/** Namespace List (§4): NSIDs by rising value, ended by a 0 where they are fewer than 1024. */
const namespaceList = structure(4096, { nsids: list(u32(0), 1024) });

/** Controller List (§4). */
const controllerList = structure(4096, { count: u16(0), identifiers: list(u16(2), 2047) });

/**
 * Identify (NVMe 1.4 §5.15). CNS values that 1.4 does not define, among them the command-set specific
 * ones of 2.0 (05h to 08h), are refused with Invalid Field; Linux asks 06h and goes on without.
 */
export class Identify {
  readonly #host: AdminHost;
  readonly #pci: PciVendor;
  readonly #resets: ResetCount;
  readonly #formatRemaining: (namespace: Namespace) => number;
  readonly #identifiers = new Map<number, NamespaceIdentifiers>();

  /** @param formatRemaining percent that a Format NVM has still to do, 0 where none is under way. */
  constructor(
    host: AdminHost,
    pci: PciVendor,
    resets: ResetCount,
    formatRemaining: (namespace: Namespace) => number,
  ) {
    this.#host = host;
    this.#pci = pci;
    this.#resets = resets;
    this.#formatRemaining = formatRemaining;
  }

  execute(command: Command): AdminAnswer {
    switch (command.dword(10) & 0xff) {
      case Cns.namespace:
      case Cns.allocatedNamespace:
        return this.#namespace(command);
      case Cns.controller:
        return this.#send(command, identifyControllerData(this.#host, this.#pci));
      case Cns.activeNamespaces:
      case Cns.allocatedNamespaces:
        return this.#namespaceList(command);
      case Cns.namespaceIdentification:
        return this.#identification(command);
      case Cns.attachedControllers:
        return this.#attachedControllers(command);
      case Cns.controllers:
        return this.#controllerList(command, this.#allControllers());
      case Cns.primaryController:
        return this.#ofPrimary(command, () => primaryControllerData(this.#host.place));
      case Cns.secondaryControllers:
        return this.#ofPrimary(command, () =>
          secondaryControllerData(this.#host.place, command.dword(10) >>> 16),
        );
      default:
        return { status: Status.invalidField };
    }
  }

  /** §5.15.2.1: zeros for an NSID that is valid and not active; all namespaces are allocated. */
  #namespace(command: Command): AdminAnswer {
    // FFFFFFFFh, what all namespaces have in common, takes Namespace Management: it is refused too.
    const namespace = namespaceOf(this.#host, command.nsid);
    if (namespace === Status.invalidField) return this.#send(command, new Uint8Array(4096));
    if (typeof namespace === 'number') return { status: namespace };
    return this.#describe(command, namespace);
  }

  async #describe(command: Command, namespace: Namespace): Promise<Outcome> {
    const reset = this.#resets.now;
    const inUse = await blocksInUse(namespace);
    if (this.#resets.now !== reset) return { status: Status.abortRequested };
    const data = identifyNamespaceData(namespace, {
      identifiers: this.#identifiersOf(namespace),
      // A format may have made the blocks larger, and fewer, meanwhile.
      blocksInUse: Math.min(inUse, namespace.blocks),
      formatRemaining: this.#formatRemaining(namespace),
    });
    return this.#send(command, data);
  }

  /** CNS 02h and 10h: of those above the NSID, the lowest 1024. */
  #namespaceList(command: Command): Outcome {
    const { nsid: above } = command;
    if (above >= BROADCAST_NSID - 1) return { status: Status.invalidNamespaceOrFormat };
    const nsids = this.#host.namespaces.map(({ nsid }) => nsid).filter((nsid) => nsid > above);
    return this.#send(command, namespaceList.write({ nsids: nsids.slice(0, 1024) }));
  }

  #identification(command: Command): Outcome {
    const namespace = this.#find(command.nsid);
    if (namespace === undefined) return { status: Status.invalidNamespaceOrFormat };
    return this.#send(command, identificationDescriptors(this.#identifiersOf(namespace)));
  }

  /** CNS 12h. A namespace is in no other controller. */
  #attachedControllers(command: Command): Outcome {
    if (command.nsid === BROADCAST_NSID) return { status: Status.invalidField };
    const namespace = namespaceOf(this.#host, command.nsid);
    if (typeof namespace === 'number') return { status: namespace };
    return this.#controllerList(command, [this.#host.place.controllerId]);
  }

  /** A virtual function knows of itself alone: the others are other VMs'. */
  #allControllers(): number[] {
    const { controllerId, secondaries } = this.#host.place;
    return [controllerId, ...secondaries.map((secondary) => secondary.controllerId)];
  }

  /** CNS 14h and 15h are the primary controller's. */
  #ofPrimary(command: Command, data: () => Uint8Array): Outcome {
    if (this.#host.place.role !== 'primary') return { status: Status.invalidField };
    return this.#send(command, data());
  }

  /** CNS 13h: those with an identifier of at least CNTID (dword 10 bits 31:16), by rising identifier. */
  #controllerList(command: Command, all: readonly number[]): Outcome {
    const least = command.dword(10) >>> 16;
    const identifiers = all.filter((identifier) => identifier >= least);
    return this.#send(command, controllerList.write({ count: identifiers.length, identifiers }));
  }

  #find(nsid: number): Namespace | undefined {
    return this.#host.namespaces.find((namespace) => namespace.nsid === nsid);
  }

  #identifiersOf({ nsid }: Namespace): NamespaceIdentifiers {
    let identifiers = this.#identifiers.get(nsid);
    if (identifiers === undefined) {
      identifiers = namespaceIdentifiers(this.#host.serialNumber, nsid);
      this.#identifiers.set(nsid, identifiers);
    }
    return identifiers;
  }

  #send(command: Command, data: Uint8Array): Outcome {
    return { status: this.#host.sendData(command, data) };
  }
}
