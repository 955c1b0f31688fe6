import type { AnyArmed } from './fault.ts';

/** What a fault has made of a function: it does nothing any more, or is not there. */
export type Halt = 'stalled' | 'removed';

/**
 * A place of a function where faults strike. While none is armed there, and the function is not halted,
 * what passes is compared with {@link active} and goes its way.
 */
export abstract class FaultSite<Fault extends AnyArmed> {
  protected active = false;
  protected faults: readonly Fault[] = [];
  protected halted: Halt | undefined;

  /** Whether the fault is one of this place. */
  protected abstract takes(fault: AnyArmed): fault is Fault;

  arm(fault: AnyArmed): void {
    if (!this.takes(fault)) return;
    this.faults = [...this.faults, fault];
    this.#look();
  }

  /** What it has left in effect ends too. */
  disarm(fault: AnyArmed): void {
    this.faults = this.faults.filter((other) => other !== fault);
    this.#look();
  }

  halt(halted: Halt | undefined): void {
    this.halted = halted;
    this.#look();
  }

  #look(): void {
    this.active = this.faults.length > 0 || this.halted !== undefined;
    this.changed();
  }

  /** After any of the above. */
  protected changed(): void {}
}
