import type { Completion, CompletionGate } from '../pci/completion.ts';
import type { RequesterId } from '../pci/requester-id.ts';
import type { DelayLine } from './delay-line.ts';
import { type AnyArmed, type ArmedOf, faultOn, firstDue } from './fault.ts';
import { FaultSite } from './fault-site.ts';
import { count, milliseconds } from './parameter.ts';

/** A completion that a device delivers. */
export interface DueCompletion {
  readonly rid: RequesterId;
  /** Which of the device's queues, 0 where it has one; of NVMe the completion queue's identifier. */
  readonly queue: number;
  /** What is complete, such as `command 5 of queue 1`. */
  readonly name: string;
}

const fault = faultOn<DueCompletion>();
const occasion = 'each completion of the device';

export const completionFaults = {
  'completion.delay': fault({
    says: 'A completion comes late; those after it overtake it.',
    occasion,
    parameters: { ms: milliseconds('how late', 10) },
  }),
  'completion.drop': fault({
    says: 'A completion never comes: the work is done, and the driver does not hear of it.',
    occasion,
    parameters: {},
  }),
  'completion.duplicate': fault({
    says: 'A completion comes, and once more.',
    occasion,
    parameters: { ms: milliseconds('how long after the first', 1) },
  }),
  'completion.reorder': fault({
    says: 'A completion comes after later ones of its queue.',
    occasion,
    parameters: {
      after: count('how many overtake it', 1, 64),
      ms: milliseconds('how long it waits for them at most', 20),
    },
  }),
};

type ArmedCompletionFault = ArmedOf<typeof completionFaults>;

/** One that others are to overtake. */
interface Overtaken {
  readonly queue: number;
  /** How many are still to come past. */
  left: number;
  release(): void;
}

/** Completions on their way from a device to its driver. */
export class CompletionSite extends FaultSite<ArmedCompletionFault> implements CompletionGate {
  readonly #rid: RequesterId;
  readonly #delays: DelayLine;
  #overtaken: Overtaken[] = [];

  constructor(rid: RequesterId, delays: DelayLine) {
    super();
    this.#rid = rid;
    this.#delays = delays;
  }

  /** Undefined while no completion is to be touched, none waits, and the function is not halted. */
  get gate(): CompletionGate | undefined {
    return this.active || this.#overtaken.length > 0 ? this : undefined;
  }

  /** A reset of the function: what waits is nobody's. */
  reset(): void {
    this.#overtaken = [];
  }

  protected override takes(fault: AnyArmed): fault is ArmedCompletionFault {
    return fault.name in completionFaults;
  }

  pass(completion: Completion): void {
    if (this.halted !== undefined) return;
    const { queue, name } = completion;
    const due = firstDue(this.faults, { rid: this.#rid, queue, name });
    switch (due?.name) {
      case undefined:
        completion.deliver();
        break;
      case 'completion.drop':
        due.struck(`${name} dropped`);
        // It passes nobody: for those that wait it has not come.
        return;
      case 'completion.delay': {
        const { ms } = due.parameters;
        due.struck(`${name} after ${ms} ms`);
        this.#later(ms, () => completion.deliver());
        return;
      }
      case 'completion.duplicate': {
        const { ms } = due.parameters;
        due.struck(`${name} again after ${ms} ms`);
        completion.deliver();
        this.#later(ms, () => completion.deliver());
        break;
      }
      case 'completion.reorder': {
        const { after, ms } = due.parameters;
        due.struck(`${name} after ${after} more, or ${ms} ms`);
        this.#holdBack(completion, after, ms);
        return;
      }
    }
    this.#passed(queue);
  }

  #holdBack(completion: Completion, after: number, ms: number): void {
    const { queue } = completion;
    const overtaken: Overtaken = {
      queue,
      left: after,
      release: () => {
        if (!this.#overtaken.includes(overtaken)) return;
        this.#overtaken = this.#overtaken.filter((other) => other !== overtaken);
        completion.deliver();
      },
    };
    this.#overtaken.push(overtaken);
    this.#later(ms, overtaken.release);
  }

  /** A completion of the queue has been delivered: those that it was to overtake may follow. */
  #passed(queue: number): void {
    for (const overtaken of this.#overtaken.filter((one) => one.queue === queue)) {
      overtaken.left--;
      if (overtaken.left === 0) overtaken.release();
    }
  }

  #later(ms: number, run: () => void): void {
    this.#delays.after(ms, () => {
      if (this.halted === undefined) run();
    });
  }
}
