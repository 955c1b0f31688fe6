/**
 * How much of the thread that serves memory a rotation may have while guests are at memory. Little disturbs
 * them little, and takes longer; where no guest is at memory it has all of it, whatever the duty is.
 */
export type RotationDuty = number & { readonly __unit: 'percent of a thread' };

const DUTY_MIN = 5;
const DUTY_MAX = 100;

/** @throws RangeError where it is no whole number of percent from 5 to 100 */
export function rotationDuty(percent: number): RotationDuty {
  if (Number.isInteger(percent) && percent >= DUTY_MIN && percent <= DUTY_MAX) {
    return percent as RotationDuty;
  }
  throw new RangeError(
    `expected a duty of ${DUTY_MIN} to ${DUTY_MAX} percent, in whole numbers, got ${percent}`,
  );
}

/**
 * What guests lose meanwhile grows less than a rotation gets shorter (docs/benchmarks.md): soon over is the least
 * loss in all, down to where a busy guest has less than seven tenths left.
 */
export const ROTATION_DUTY_DEFAULT = rotationDuty(60);
