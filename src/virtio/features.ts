/** Feature bits that belong to the transport and the rings, virtio 1.2 section 6. */
export const Feature = {
  indirectDescriptors: 28,
  eventIndex: 29,
  version1: 32,
  accessPlatform: 33,
  ringReset: 40,
} as const;

/** Bits 24 to 49 are the transport's; those below and above are the device type's (section 2.2). */
const TRANSPORT_FIRST = 24;
const TRANSPORT_LAST = 49;
/** Highest bit of a device type; section 2.2. */
const FEATURE_MAX = 127;

/**
 * Bits that every device of ours offers. Not among them: ORDER_PLATFORM, for a device that runs on
 * the host's CPUs is ordered by the barriers between CPUs; and IN_ORDER, for chains may be put back
 * in any order.
 */
const OFFERED: readonly number[] = Object.values(Feature);

/** A set of feature bits, as a bigint with bit n for feature n. */
export type FeatureSet = bigint;

/** @throws RangeError for a bit that is not the device type's */
export function offeredFeatures(declared: readonly number[]): FeatureSet {
  for (const feature of declared) {
    const transport = feature >= TRANSPORT_FIRST && feature <= TRANSPORT_LAST;
    if (!Number.isInteger(feature) || feature < 0 || feature > FEATURE_MAX || transport) {
      throw new RangeError(
        `expected feature bits of the device type (0 to 23 or 50 to ${FEATURE_MAX}), got ${feature}`,
      );
    }
  }
  return featureSet([...declared, ...OFFERED]);
}

export function featureSet(features: readonly number[]): FeatureSet {
  return features.reduce((set, feature) => set | (1n << BigInt(feature)), 0n);
}

export function hasFeature(set: FeatureSet, feature: number): boolean {
  return ((set >> BigInt(feature)) & 1n) === 1n;
}
