import { FaultPlan, type FaultPlanOptions } from '../../../src/faults/index.ts';
import { ManualClock } from '../../../src/pci/clock.ts';
import type { PciEndpoint } from '../../../src/pci/endpoint.ts';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { Bench, type BenchOptions } from '../pci/bench.ts';

export const RID = parseRequesterId('00:04.0');

/** A function on the bench with a plan of faults around it, on a clock of the test's. */
export function faultBench(
  device: PciEndpoint,
  options: Omit<FaultPlanOptions, 'clock'> & BenchOptions = {},
) {
  const clock = new ManualClock();
  const plan = new FaultPlan({ seed: 1, ...options, clock });
  const endpoint = plan.around(device, RID);
  const link = new Bench(endpoint, options);
  return { plan, clock, link, endpoint, memory: link.memory, interrupts: link.interrupts };
}

/** What struck, without the numbers. */
export function told(plan: FaultPlan): string[] {
  return plan.strikes.map(({ fault, detail }) => `${fault}: ${detail}`);
}
