/** What a device author needs, and all of it. */
export { type Alarm, type Clock, ManualClock, systemClock } from './clock.ts';
export type { Completion, CompletionGate, CompletionPoint } from './completion.ts';
export { DmaAbort, type DmaAccess, type DmaPort, type Iova } from './dma-port.ts';
export type { ResetCause } from './endpoint.ts';
export { ResetAbort } from './epoch.ts';
export { fullFence } from './full-fence.ts';
export { type FunctionOptions, PciFunction } from './function.ts';
export type { FunctionId, FunctionInterrupts } from './function-shape.ts';
export { iovaOf } from './iova.ts';
export { type Bar, ioBar, memoryBar } from './register/bar.ts';
export { bit, bits } from './register/field.ts';
export {
  ram,
  rc,
  reg8,
  reg16,
  reg32,
  reg64,
  regArray,
  ro,
  ro8,
  ro16,
  ro32,
  ro64,
  w1c,
  w1c8,
  w1c16,
  w1c32,
  w1c64,
  wo,
  wo8,
  wo16,
  wo32,
  wo64,
} from './register/register.ts';
