/**
 * A completion is what a device says when work is done: a status bit and an interrupt, an entry in a
 * queue. Devices say it by way of a point where it can be delayed, lost, doubled or put after others.
 */
export interface Completion {
  /** Which of a device's queues it belongs to; 0 where there is one. Order is kept in each. */
  readonly queue: number;
  /** For people: `command 5 of queue 1`. */
  readonly name: string;
  /** Says it. Does nothing once a reset has ended the work. */
  deliver(): void;
}

/** Decides when, how often and in which order completions are delivered. */
export interface CompletionGate {
  /** Calls `deliver` at once, later, twice or never. */
  pass(completion: Completion): void;
}

/** Where a function's completions pass. */
export interface CompletionPoint {
  /** Undefined while nobody stands in their way: then each is delivered as it comes. */
  readonly gate: CompletionGate | undefined;
}
