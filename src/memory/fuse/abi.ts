/**
 * The FUSE kernel protocol, version 7, as far as a file system of plain files needs it.
 * Layouts are those of the kernel's include/uapi/linux/fuse.h on a little-endian machine; offsets
 * count from the start of the message.
 */

export const FUSE_KERNEL_VERSION = 7;
/** The newest minor whose messages this was written against; the kernel takes the lower of both. */
export const FUSE_KERNEL_MINOR_VERSION = 41;

/** struct fuse_in_header: len, opcode, unique, nodeid, uid, gid, pid. */
export const IN_HEADER_BYTES = 40;
/** struct fuse_out_header: len, error, unique. */
export const OUT_HEADER_BYTES = 16;

export const Opcode = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  SETATTR: 4,
  UNLINK: 10,
  OPEN: 14,
  READ: 15,
  WRITE: 16,
  STATFS: 17,
  RELEASE: 18,
  FSYNC: 20,
  FLUSH: 25,
  INIT: 26,
  OPENDIR: 27,
  READDIR: 28,
  RELEASEDIR: 29,
  INTERRUPT: 36,
  DESTROY: 38,
  NOTIFY_REPLY: 41,
  BATCH_FORGET: 42,
} as const;

/** INIT flags. */
export const InitFlag = {
  ASYNC_READ: 1 << 0,
  BIG_WRITES: 1 << 5,
  /** Direct I/O is sent in the background: only so can a process have several requests under way. */
  ASYNC_DIO: 1 << 15,
  WRITEBACK_CACHE: 1 << 16,
  ABORT_ERROR: 1 << 21,
  MAX_PAGES: 1 << 22,
  EXPLICIT_INVAL_DATA: 1 << 25,
} as const;

/** OPEN answers: keep what the page cache holds of the file. */
export const FOPEN_DIRECT_IO = 1 << 0;
export const FOPEN_KEEP_CACHE = 1 << 1;
/** WRITE flag: a write-back of the page cache; its file handle may be any of the file's. */
export const WRITE_CACHE = 1 << 0;
/**
 * READ and WRITE flag: a direct access of a process. The kernel names the lock owner in these alone,
 * not in what it reads or writes for the page cache.
 */
export const IO_LOCKOWNER = 1 << 1;
/** SETATTR: the size is to change. */
export const FATTR_SIZE = 1 << 3;

export const ROOT_NODE = 1;

export const INIT_OUT_BYTES = 64;
export const ENTRY_OUT_BYTES = 128;
export const ATTR_OUT_BYTES = 104;
export const OPEN_OUT_BYTES = 16;
export const WRITE_OUT_BYTES = 8;
export const STATFS_OUT_BYTES = 80;

export const UNIQUE_AT = 8;
export const NODE_AT = 16;
/** struct fuse_read_in and fuse_write_in: fh, offset, size, flags; a WRITE's data comes behind. */
export const IO_IN_BYTES = 40;
export const FH_AT = 40;
export const OFFSET_AT = 48;
export const SIZE_AT = 56;
/** read_flags and write_flags stand at the same place. */
export const IO_FLAGS_AT = 60;

/** What stat(2) shows of a node. */
export interface NodeAttributes {
  readonly node: number;
  readonly bytes: number;
  /** Type and permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

/** struct fuse_attr, 88 bytes at `at`. */
export function putAttributes(view: DataView, at: number, node: NodeAttributes): void {
  view.setBigUint64(at, BigInt(node.node), true);
  view.setBigUint64(at + 8, BigInt(node.bytes), true);
  view.setBigUint64(at + 16, BigInt(Math.ceil(node.bytes / 512)), true);
  view.setUint32(at + 60, node.mode, true);
  view.setUint32(at + 64, 1, true);
  view.setUint32(at + 68, node.uid, true);
  view.setUint32(at + 72, node.gid, true);
  view.setUint32(at + 80, 4096, true);
}

/** One struct fuse_dirent at `at`, padded to 8 bytes. @returns its length. */
export function putDirent(
  view: DataView,
  at: number,
  entry: { node: number; next: number; name: Uint8Array; type: number },
): number {
  view.setBigUint64(at, BigInt(entry.node), true);
  view.setBigUint64(at + 8, BigInt(entry.next), true);
  view.setUint32(at + 16, entry.name.length, true);
  view.setUint32(at + 20, entry.type, true);
  new Uint8Array(view.buffer, view.byteOffset + at + 24, entry.name.length).set(entry.name);
  return direntBytes(entry.name);
}

export function direntBytes(name: Uint8Array): number {
  return (24 + name.length + 7) & ~7;
}
