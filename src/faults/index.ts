/** Faults on demand: docs/faults.md. */
export { type ArmOptions, catalogue, type FaultName } from './catalogue.ts';
export type { DueCompletion } from './completion-faults.ts';
export type { DmaMade } from './dma-faults.ts';
export { type FaultHandle, FaultPlan, type FaultPlanOptions } from './fault-plan.ts';
export { type FaultChoice, formatSeed, parseFault, parseSeed } from './fault-text.ts';
export type { RaisedInterrupt } from './interrupt-faults.ts';
export type { RegisterAccess } from './register-access.ts';
export type { Strike } from './strike.ts';
export { TRIGGERS, type TriggerOptions } from './trigger.ts';
