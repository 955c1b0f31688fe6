/** What the author of a virtio device needs beside `sealbus/pci`, and all of it. */
export { deviceConfig } from './device-config.ts';
export { Feature } from './features.ts';
export {
  type QueueClass,
  type VirtioClass,
  VirtioFunction,
  type VirtioResetCause,
} from './virtio-function.ts';
export type { Chain, Virtqueue } from './virtqueue.ts';
