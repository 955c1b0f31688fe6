import type { RequesterId } from '../pci/requester-id.ts';
import type { ParameterSet, ParameterValues } from './parameter.ts';
import type { RandomStream } from './random-stream.ts';
import type { Trigger } from './trigger.ts';

/** A fault as the catalogue has it. `Context` is what a `when` is asked about. */
export interface FaultDeclaration<Context, P extends ParameterSet> {
  /** One sentence: what happens. */
  readonly says: string;
  /** What is counted, and may be struck. */
  readonly occasion: string;
  readonly parameters: P;
  /** @throws TypeError where the parameters do not go together */
  check?(parameters: ParameterValues<P>): void;
  /** Never there: ties the declaration to its context. */
  readonly context?: Context;
}

export type AnyDeclaration = FaultDeclaration<unknown, ParameterSet>;
export type ContextOf<F> =
  F extends FaultDeclaration<infer Context, ParameterSet> ? Context : never;
export type ParametersOf<F> = F extends { readonly parameters: infer P extends ParameterSet }
  ? P
  : never;

/** Declares a fault whose occasions are of the kind `Context`. */
export function faultOn<Context>() {
  return <const P extends ParameterSet>(
    declared: Omit<FaultDeclaration<Context, P>, 'context'>,
  ): FaultDeclaration<Context, P> => declared;
}

/** A fault that is armed, as one function meets it: it counts and draws there by itself. */
export interface ArmedFault<Name extends string, Context, P extends ParameterSet> {
  readonly name: Name;
  readonly rid: RequesterId;
  readonly parameters: ParameterValues<P>;
  readonly trigger: Trigger<Context>;
  /** For what the fault leaves open, such as which bit. */
  readonly stream: RandomStream;
  /** It has struck: `detail` says what, for people. */
  struck(detail: string): void;
}

/** The armed forms of several declarations, told apart by their names. */
export type ArmedOf<Faults> = {
  [Name in keyof Faults & string]: ArmedFault<
    Name,
    ContextOf<Faults[Name]>,
    ParametersOf<Faults[Name]>
  >;
}[keyof Faults & string];

/** Of whatever name. */
export type AnyArmed = ArmedFault<string, never, ParameterSet>;

/**
 * Asks each of the faults whether this occasion is its own, so that none depends on another's luck.
 * @returns the one that was armed first of those that are due
 */
export function firstDue<Context, Fault extends { readonly trigger: Trigger<Context> }>(
  faults: readonly Fault[],
  context: Context,
): Fault | undefined {
  let first: Fault | undefined;
  for (const fault of faults) if (fault.trigger.due(context)) first ??= fault;
  return first;
}
