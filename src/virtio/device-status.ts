/** Bits of the device status field, virtio 1.2 section 2.1. */
export const Status = {
  acknowledge: 1,
  driver: 2,
  driverOk: 4,
  featuresOk: 8,
  needsReset: 64,
  failed: 128,
} as const;

/** Those that the driver may set. */
export const STATUS_OF_DRIVER =
  Status.acknowledge | Status.driver | Status.driverOk | Status.featuresOk | Status.failed;
