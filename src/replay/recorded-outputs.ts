import type { InterruptModeEvent } from '../trace/event.ts';
import type { OutputEvent, PlacedOutput, Script } from './script.ts';

type Mode = InterruptModeEvent['mode'];

/**
 * What the function did in the recording, in order, and how far the device has come in it.
 *
 * The order: DMA, interrupts, refusals, unmodelled accesses and errors of one function are one sequence.
 * What stands before an input must have happened before that input is played; what stands after it may
 * come early only where the device goes by something that the recording does not hold (a file it reads, a
 * timer of its own), and never across a reset.
 */
export class RecordedOutputs {
  readonly #script: Script;
  readonly #came: (event: OutputEvent) => void;
  #next = 0;
  #mode: Mode = 'none';
  /** Inputs that have been played, the one that is being played too. */
  played = 0;
  /** Whether what comes now may come early. */
  mayBeEarly = false;

  /** @param came hears of each output as it comes */
  constructor(script: Script, came: (event: OutputEvent) => void) {
    this.#script = script;
    this.#came = came;
  }

  /** What the device has to do next; undefined behind the last. */
  get next(): PlacedOutput | undefined {
    const { outputs } = this.#script;
    let at = this.#next;
    while (outputs[at]?.event.kind === 'interrupt-mode') at++;
    return outputs[at];
  }

  /** What should have come before the next input, and has not. */
  get missing(): PlacedOutput | undefined {
    const { next } = this;
    return next !== undefined && next.after <= this.played ? next : undefined;
  }

  /**
   * The device asks which interrupts the guest has enabled. Where it did not ask when the recording has
   * it asking, the latest answer holds.
   */
  askMode(): Mode {
    const { outputs } = this.#script;
    for (let early = false; !early; ) {
      const next = outputs[this.#next];
      if (next?.event.kind !== 'interrupt-mode' || !this.#inTime(next)) break;
      early = next.after > this.played;
      this.#mode = next.event.mode;
      this.#next++;
    }
    return this.#mode;
  }

  /** How the last question was answered. */
  get mode(): Mode {
    return this.#mode;
  }

  /**
   * The next output, where it is in time and such as `matches` says. @returns it, taken; or undefined,
   * with nothing changed
   */
  take<Event extends OutputEvent>(
    matches: (event: OutputEvent) => event is Event,
  ): Event | undefined {
    const { next } = this;
    if (next === undefined || !this.#inTime(next) || !matches(next.event)) return undefined;
    this.#skipTo(next);
    return next.event;
  }

  /**
   * The next `count` outputs, which a batch makes together and in no order.
   * @returns fewer, where there are not as many in time that `matches`; taken by {@link takeAll}
   */
  together<Event extends OutputEvent>(
    count: number,
    matches: (event: OutputEvent) => event is Event,
  ): readonly Event[] {
    const found: Event[] = [];
    const { outputs } = this.#script;
    for (let at = this.#next; found.length < count; at++) {
      const output = outputs[at];
      if (output?.event.kind === 'interrupt-mode') continue;
      if (output === undefined || !this.#inTime(output) || !matches(output.event)) break;
      found.push(output.event);
    }
    return found;
  }

  takeAll(events: readonly OutputEvent[]): void {
    const last = events.at(-1);
    const { outputs } = this.#script;
    for (let at = this.#next; at < outputs.length; at++) {
      const output = outputs[at] as PlacedOutput;
      if (output.event !== last) continue;
      this.#skipTo(output);
      return;
    }
  }

  /** A question that the device did not ask this time was answered all the same. */
  #skipTo(taken: PlacedOutput): void {
    const { outputs } = this.#script;
    for (;;) {
      const output = outputs[this.#next++];
      if (output === undefined) return;
      this.#came(output.event);
      if (output === taken) return;
      if (output.event.kind === 'interrupt-mode') this.#mode = output.event.mode;
    }
  }

  #inTime({ after }: PlacedOutput): boolean {
    if (after <= this.played) return true;
    if (!this.mayBeEarly) return false;
    const between = this.#script.inputs.slice(this.played, after);
    return between.every(({ event }) => event.kind !== 'reset');
  }
}
