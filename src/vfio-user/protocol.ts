/**
 * Numbers of the vfio-user protocol, version 0.1, as its specification and <linux/vfio.h> have them.
 * Everything on the wire is little-endian.
 */

export const COMMAND = {
  version: 1,
  dmaMap: 2,
  dmaUnmap: 3,
  deviceInfo: 4,
  regionInfo: 5,
  regionIoFds: 6,
  irqInfo: 7,
  setIrqs: 8,
  regionRead: 9,
  regionWrite: 10,
  dmaRead: 11,
  dmaWrite: 12,
  deviceReset: 13,
  dirtyPages: 14,
} as const;

/** Message header: id u16, command u16, size u32, flags u32, error u32. */
export const HEADER_BYTES = 16;
/** Region access after the header: offset u64, region u32, count u32, data. */
export const REGION_ACCESS_BYTES = 16;
/** Map after the header: argsz u32, flags u32, offset u64, address u64, size u64. */
export const DMA_MAP_BYTES = 32;
/** Unmap after the header: argsz u32, flags u32, address u64, size u64. */
export const DMA_UNMAP_BYTES = 24;
/** Set interrupts after the header: argsz u32, flags u32, index u32, start u32, count u32, data. */
export const SET_IRQS_BYTES = 20;

export const MESSAGE_TYPE_MASK = 0xf;
export const TYPE_COMMAND = 0;
export const TYPE_REPLY = 1;
export const FLAG_NO_REPLY = 0x10;
export const FLAG_ERROR = 0x20;

export const DMA_READABLE = 1;
export const DMA_WRITABLE = 2;
export const DMA_UNMAP_ALL = 2;

export const IRQ_INDEX = { intx: 0, msi: 1, msix: 2, error: 3, request: 4 } as const;
export const IRQ_INDEX_COUNT = 5;

export const IRQ_DATA_NONE = 1;
export const IRQ_DATA_BOOL = 2;
export const IRQ_DATA_EVENTFD = 4;
export const IRQ_DATA_MASK = 7;
export const IRQ_ACTION_MASK = 8;
export const IRQ_ACTION_UNMASK = 16;
export const IRQ_ACTION_TRIGGER = 32;
export const IRQ_ACTIONS = 56;

/** Regions 0 to 5 are the BARs. */
export const REGION_ROM = 6;
export const REGION_CONFIG = 7;

/**
 * The most data bytes of one message that our server takes. Smaller than libvfio-user's 1 MiB, so
 * that a whole message, and a whole reply, fits the kernel's default socket buffer (208 KiB): then
 * nothing that is sent to or by the server ever has to wait in the middle of a message.
 */
export const DATA_BYTES_MAX = 64 * 1024;
export const MESSAGE_BYTES_MAX = HEADER_BYTES + REGION_ACCESS_BYTES + DATA_BYTES_MAX;

export const ERRNO = {
  ENOENT: 2,
  EBADF: 9,
  EBUSY: 16,
  EEXIST: 17,
  EINVAL: 22,
  ENOSPC: 28,
  EPROTO: 71,
  EOPNOTSUPP: 95,
  ENOTCONN: 107,
} as const;

/** Writes a message header at the start of `view`. */
export function putHeader(
  view: DataView,
  id: number,
  command: number,
  size: number,
  flags: number,
  errno = 0,
): void {
  view.setUint16(0, id, true);
  view.setUint16(2, command, true);
  view.setUint32(4, size, true);
  view.setUint32(8, flags, true);
  view.setUint32(12, errno, true);
}
