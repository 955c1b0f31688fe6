/**
 * What a driver put into a ring breaks the rules of virtio 1.2 section 2.7: its device asks to be
 * reset. Never a bug of the device.
 */
export class RingError extends Error {
  override readonly name = 'RingError';
}
