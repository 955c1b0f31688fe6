/** Record and replay: a recorded guest session against the device alone. */
export type { AroundLine, Difference } from './difference.ts';
export {
  type MakeDevice,
  type RecordedTrace,
  Replayed,
  type ReplayOptions,
  replay,
} from './replay.ts';
export { ReplayError } from './replay-stop.ts';
