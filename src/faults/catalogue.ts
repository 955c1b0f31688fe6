import type { RequesterId } from '../pci/requester-id.ts';
import { completionFaults } from './completion-faults.ts';
import { dmaFaults } from './dma-faults.ts';
import { dramFaults } from './dram-faults.ts';
import type { AnyDeclaration, ContextOf, ParametersOf } from './fault.ts';
import { interruptFaults } from './interrupt-faults.ts';
import { iommuFaults } from './iommu-faults.ts';
import { type ParameterOptions, readParameters } from './parameter.ts';
import { registerFaults } from './register-faults.ts';
import { resetFaults } from './reset-faults.ts';
import type { TriggerOptions } from './trigger.ts';

/** All faults by name, each as the file declares it in which it strikes. */
export const catalogue = {
  ...completionFaults,
  ...interruptFaults,
  ...registerFaults,
  ...iommuFaults,
  ...dmaFaults,
  ...dramFaults,
  ...resetFaults,
};

export type FaultName = keyof typeof catalogue;

/** What `arm` takes: one trigger, a function where it is not to be all, and the fault's own parameters. */
export type ArmOptions<Name extends FaultName> = TriggerOptions<
  ContextOf<(typeof catalogue)[Name]>
> & {
  /** Only at this function. Default: at each one but a virtio-iommu. */
  readonly rid?: RequesterId;
} & ParameterOptions<ParametersOf<(typeof catalogue)[Name]>>;

/** The same by name, from which a call of `arm` infers what its `when` is asked about. */
export type ArmOptionsByName = { readonly [Name in FaultName]: ArmOptions<Name> };

/**
 * The values of a fault's parameters out of what was given.
 * @throws RangeError where there is no such fault, or a value is not what it should be; TypeError where
 *   one is missing or unknown, or they do not go together
 */
export function parametersOf(
  name: string,
  given: Readonly<Record<string, unknown>>,
): Readonly<Record<string, unknown>> {
  const declared = faultNamed(name);
  const values = readParameters(name, declared.parameters, given);
  declared.check?.(values);
  return values;
}

/** @throws RangeError where there is no such fault */
export function faultNamed(name: string): AnyDeclaration {
  const found = Object.hasOwn(catalogue, name) ? catalogue[name as FaultName] : undefined;
  if (found !== undefined) return found as AnyDeclaration;
  throw new RangeError(
    `expected a fault of the catalogue, got '${name}': there are ${Object.keys(catalogue).join(', ')}`,
  );
}
