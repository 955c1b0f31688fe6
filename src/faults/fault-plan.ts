import { randomInt } from 'node:crypto';
import { VirtioIommu } from '../devices/iommu/virtio-iommu.ts';
import type { Instrument } from '../machine/instrument.ts';
import { type Clock, systemClock } from '../pci/clock.ts';
import type { PciEndpoint } from '../pci/endpoint.ts';
import { formatRequesterId, type RequesterId } from '../pci/requester-id.ts';
import { type ArmOptionsByName, type FaultName, parametersOf } from './catalogue.ts';
import type { AnyArmed } from './fault.ts';
import { FaultyFunction } from './faulty-function.ts';
import { IommuSite } from './iommu-faults.ts';
import { type FaultyMachine, MachineUnderTest } from './machine-under-test.ts';
import { RandomStream } from './random-stream.ts';
import { type Strike, StrikeLog } from './strike.ts';
import { checkTrigger, Trigger, type TriggerOptions } from './trigger.ts';

export interface FaultPlanOptions {
  /** 32 bits. The same seed gives the same faults. Default: a random one. */
  readonly seed?: number;
  /** Hears of each strike at the moment it happens. */
  readonly onStrike?: (strike: Strike) => void;
  /** What delays are counted by. Default: the host's monotonic clock. */
  readonly clock?: Clock;
}

/** A fault that is armed. */
export interface FaultHandle {
  readonly name: FaultName;
  /** How often it has struck, at all functions together. */
  readonly struck: number;
  /**
   * It strikes no more, and what it left in effect ends: a function that was removed is plugged in again, one
   * that is stalled is reset, bits that are stuck come loose. What it has put off still comes.
   */
  disarm(): void;
}

interface Armed {
  readonly name: FaultName;
  /** Of arming, from 0: each has a stream of its own. */
  readonly order: number;
  readonly rid: RequesterId | undefined;
  readonly trigger: TriggerOptions<never>;
  readonly parameters: Readonly<Record<string, unknown>>;
  /** As the functions have it. */
  readonly at: Map<FaultyFunction, AnyArmed>;
  struck: number;
}

/**
 * Faults on demand: strikes a machine's functions where and when it is told to, from one seed.
 *
 *     const plan = new FaultPlan({ seed: 7 });
 *     const machine = await Machine.create({ …, instruments: [plan] });
 *     plan.arm('interrupt.lose', { nth: 1 });
 *
 * Occasions are counted and chances drawn for each armed fault and each function by themselves: what
 * other faults and functions do meanwhile changes nothing.
 */
export class FaultPlan implements Instrument {
  readonly seed: number;
  readonly #clock: Clock;
  readonly #log: StrikeLog;
  readonly #functions = new Map<RequesterId, FaultyFunction>();
  readonly #armed: Armed[] = [];
  readonly #machine = new MachineUnderTest();
  #arms = 0;

  /** @throws RangeError where the seed has not 32 bits */
  constructor(options: FaultPlanOptions = {}) {
    const { seed = randomInt(2 ** 32), onStrike, clock = systemClock } = options;
    if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32) {
      throw new RangeError(`expected a seed of 32 bits, got ${seed}`);
    }
    this.seed = seed;
    this.#clock = clock;
    this.#log = new StrikeLog(onStrike);
  }

  /** The newest 4096, oldest first. */
  get strikes(): readonly Strike[] {
    return this.#log.newest;
  }

  /** All of them, also those that are not kept. */
  get struck(): number {
    return this.#log.total;
  }

  /**
   * Arms a fault of the catalogue, from now on and for functions that are plugged in later as well, as far as
   * it fits them.
   * @throws RangeError, TypeError where the options are not the fault's, or fit none of the functions there
   */
  arm<Name extends FaultName>(name: Name, options: ArmOptionsByName[Name]): FaultHandle {
    const { rate, nth, every, when, times, rid, ...given } = options as ArmOptionsByName[Name] &
      Record<string, unknown>;
    const trigger = { rate, nth, every, when, times } as TriggerOptions<never>;
    checkTrigger(trigger);
    const armed: Armed = {
      ...{ name, order: this.#arms, rid, trigger },
      parameters: parametersOf(name, given),
      at: new Map(),
      struck: 0,
    };
    const misfits: RangeError[] = [];
    for (const one of this.#functions.values()) {
      const misfit = this.#armAt(armed, one);
      if (misfit !== undefined) misfits.push(misfit);
    }
    if (armed.at.size === 0 && misfits[0] !== undefined) throw misfits[0];
    this.#arms++;
    this.#armed.push(armed);
    return {
      name,
      get struck() {
        return armed.struck;
      },
      disarm: () => this.#disarm(armed),
    };
  }

  /** Disarms all that is armed. */
  disarmAll(): void {
    for (const armed of this.#armed.slice()) this.#disarm(armed);
  }

  /**
   * Flips a bit of DRAM now: of the ciphertext where memory is sealed, else of the byte itself. What a CPU
   * has in its cache stays as it is until it is dropped there.
   *
   * @param address guest-physical, of the byte @param bit 0 to 7
   * @throws RangeError; MemoryError where no guest memory is there, or the plan has no machine
   */
  flipBit(address: number, bit: number): void {
    this.#machine.flipBit(address, bit);
  }

  /** @throws Error where it is another machine's already */
  install(machine: FaultyMachine): void {
    this.#machine.install(machine);
  }

  around(endpoint: PciEndpoint, rid: RequesterId, device: PciEndpoint = endpoint): PciEndpoint {
    if (this.#functions.has(rid)) {
      throw new Error(
        `expected a function that the plan does not have yet, got a second ${formatRequesterId(rid)}`,
      );
    }
    const iommu = new IommuSite(rid, this.#machine, () => this.#machine.look());
    const one = new FaultyFunction(endpoint, { rid, device, clock: this.#clock, iommu });
    this.#functions.set(rid, one);
    this.#machine.watch(rid, iommu);
    for (const armed of this.#armed) this.#armAt(armed, one);
    return one;
  }

  /** A function was pulled out: nothing that it put off happens. One that comes there is another. */
  left(rid: RequesterId): void {
    const one = this.#functions.get(rid);
    if (one === undefined) return;
    one.end();
    this.#functions.delete(rid);
    this.#machine.unwatch(rid);
    for (const { at } of this.#armed) at.delete(one);
  }

  /** The machine has ended: nothing that was put off happens. The plan may have another machine. */
  end(): void {
    for (const one of this.#functions.values()) one.end();
    this.#functions.clear();
    this.#machine.end();
    for (const { at } of this.#armed) at.clear();
  }

  /** @returns why the fault does not fit the function, where it does not */
  #armAt(armed: Armed, one: FaultyFunction): RangeError | undefined {
    const { name, order, rid, trigger, parameters } = armed;
    if (rid === undefined ? one.device instanceof VirtioIommu : rid !== one.rid) return undefined;
    const stream = RandomStream.of(this.seed, order, one.rid);
    const counted = new Trigger<never>(trigger, stream);
    const at = {
      ...{ name, rid: one.rid, parameters, trigger: counted, stream },
      struck: (detail: string) => {
        counted.struck();
        armed.struck++;
        this.#log.add({ fault: name, rid: one.rid, occasion: counted.occasions, detail });
        this.#machine.injected(one.rid, name, detail);
      },
    } as AnyArmed;
    try {
      one.arm(at);
    } catch (error) {
      if (error instanceof RangeError) return error;
      throw error;
    }
    armed.at.set(one, at);
    return undefined;
  }

  #disarm(armed: Armed): void {
    const index = this.#armed.indexOf(armed);
    if (index < 0) return;
    this.#armed.splice(index, 1);
    for (const [one, at] of armed.at) one.disarm(at);
    armed.at.clear();
  }
}
