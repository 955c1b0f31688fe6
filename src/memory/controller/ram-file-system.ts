import { constants } from 'node:fs';
import {
  ATTR_OUT_BYTES,
  direntBytes,
  ENTRY_OUT_BYTES,
  FATTR_SIZE,
  FOPEN_DIRECT_IO,
  FOPEN_KEEP_CACHE,
  IN_HEADER_BYTES,
  IO_LOCKOWNER,
  type NodeAttributes,
  OPEN_OUT_BYTES,
  Opcode,
  putAttributes,
  putDirent,
  ROOT_NODE,
  STATFS_OUT_BYTES,
  WRITE_CACHE,
} from '../fuse/abi.ts';
import { EBUSY, EINVAL, EIO, ENOENT, ENOSYS, ENOTDIR, EPERM } from '../fuse/errno.ts';
import {
  type FuseFileSystem,
  type FuseRequest,
  MAX_TRANSFER_BYTES,
} from '../fuse/fuse-connection.ts';
import type { SealedFile } from './sealed-file.ts';

/** Attributes never change by themselves: seconds for which the kernel need not ask again. */
const ATTRIBUTES_VALID_SECONDS = 1_000_000n;
const DIRECTORY_MODE = 0o040700;
const FILE_MODE = 0o100600;
const DT_REG = 8;
const DT_DIR = 4;

const CPU_HANDLE = 1;
const DMA_HANDLE = 2;
const SCATTER_HANDLE = 3;
const ERRORS_HANDLE = 4;
/** Of files that are no memory. */
const HANDLES = { memory: undefined, scatter: SCATTER_HANDLE, errors: ERRORS_HANDLE } as const;

interface Entry {
  readonly node: number;
  readonly name: string;
  readonly file: SealedFile;
  /** What its bytes are: those of the RAM file, messages of many DMA writes to it, or errors of its DRAM. */
  readonly holds: 'memory' | 'scatter' | 'errors';
  /** Its size: of a scatter file that of the longest message, for the kernel waits at its end. */
  readonly bytes: number;
  /** One opener at a time has the DMA port: the gate's entries are one process's. */
  dmaOpen: boolean;
  /** Its memory is gone; a name is all that is left, until it is unlinked. */
  removed: boolean;
}

/** The scatter file of a RAM file: what is written to it are the bytes of many DMA writes. */
export function scatterName(name: string): string {
  return `${name}.scatter`;
}

/** The errors file of a RAM file: a bit that is written to it is flipped there in DRAM. */
export function errorsName(name: string): string {
  return `${name}.errors`;
}

/**
 * The file system of the RAM files: one directory, a file a VM.
 *
 * A file opened in the plain way is the CPU's port: the page cache lies before it. Opened with
 * O_DIRECT it is the DMA port of the same file, so that the kernel keeps the two coherent (see
 * dma-gate.ts). The handle alone does not tell the port: a write-back may carry any, and where the
 * kernel cannot drop a page it takes an O_DIRECT access through the page cache, with the DMA port's
 * handle. A refusal or a retry there would have the kernel forget a page with stores in it, and a READ
 * that no one counted would be in the cache: so what is not a direct access is the CPU's port.
 */
export class RamFileSystem implements FuseFileSystem {
  /** By node. A node's number is never another file's: the kernel may still have the old one open. */
  readonly #entries = new Map<number, Entry>();
  #nextNode = ROOT_NODE + 1;
  readonly #uid = process.getuid?.() ?? 0;
  readonly #gid = process.getgid?.() ?? 0;
  readonly #encoder = new TextEncoder();

  /** @throws Error where there is a file of that name. */
  add(name: string, file: SealedFile): void {
    if (this.#named(name) !== undefined) {
      throw new Error(`expected a new RAM file, got a second ${name}`);
    }
    this.#add(name, file, 'memory');
    this.#add(scatterName(name), file, 'scatter');
    this.#add(errorsName(name), file, 'errors');
  }

  /**
   * Takes the memory away from a RAM file and those beside it. Whoever has them open finds no byte in them
   * any more; whoever looks for them may unlink their names, with which the kernel lets go of its cache.
   */
  remove(file: SealedFile): void {
    for (const entry of this.#entries.values()) if (entry.file === file) entry.removed = true;
  }

  #add(name: string, file: SealedFile, holds: Entry['holds']): void {
    const node = this.#nextNode++;
    const bytes = holds === 'scatter' ? MAX_TRANSFER_BYTES : file.bytes;
    this.#entries.set(node, { node, name, file, holds, bytes, dmaOpen: false, removed: false });
  }

  read(
    node: number,
    handle: number,
    offset: number,
    length: number,
    into: number,
    flags: number,
  ): number {
    const entry = this.#entry(node);
    if (entry === undefined || entry.holds !== 'memory') return -EIO;
    if (handle === DMA_HANDLE && (flags & IO_LOCKOWNER) !== 0)
      return entry.file.dmaRead(offset, length, into);
    return entry.file.fill(offset, length, into);
  }

  write(
    node: number,
    handle: number,
    offset: number,
    length: number,
    from: number,
    flags: number,
  ): number {
    const entry = this.#entry(node);
    if (entry === undefined) return -EIO;
    if (entry.holds === 'errors') return entry.file.flip(offset, length, from);
    if (entry.holds === 'scatter') return offset === 0 ? entry.file.dmaScatter(length, from) : -EIO;
    if ((flags & WRITE_CACHE) !== 0) return entry.file.writeBack(offset, length, from);
    if (handle === DMA_HANDLE) {
      return (flags & IO_LOCKOWNER) !== 0
        ? entry.file.dmaWrite(offset, length, from)
        : entry.file.writeBack(offset, length, from);
    }
    return -EINVAL; // With the write-back cache on, the CPU's port writes no other way.
  }

  control(request: FuseRequest, answer: DataView): number {
    const { opcode, node } = request;
    switch (opcode) {
      case Opcode.LOOKUP:
        return this.#lookup(request, answer);
      case Opcode.GETATTR:
        return this.#attributes(node, answer);
      case Opcode.SETATTR:
        return this.#setAttributes(request, answer);
      case Opcode.OPEN:
        return this.#open(request, answer);
      case Opcode.RELEASE:
        return this.#release(request);
      case Opcode.OPENDIR:
        return node === ROOT_NODE ? OPEN_OUT_BYTES : -ENOTDIR;
      case Opcode.READDIR:
        return this.#readDirectory(request, answer);
      case Opcode.UNLINK:
        return this.#unlink(request);
      case Opcode.STATFS:
        return STATFS_OUT_BYTES;
      // Data is in DRAM as soon as its WRITE is answered: nothing is left to flush.
      case Opcode.FLUSH:
      case Opcode.FSYNC:
      case Opcode.RELEASEDIR:
        return 0;
      default:
        return -ENOSYS;
    }
  }

  /** A file that has its memory. */
  #entry(node: number): Entry | undefined {
    const entry = this.#entries.get(node);
    return entry?.removed ? undefined : entry;
  }

  #named(name: string): Entry | undefined {
    for (const entry of this.#entries.values()) if (entry.name === name) return entry;
    return undefined;
  }

  /** Only of what has no memory any more: RAM is not to be lost by an rm. */
  #unlink(request: FuseRequest): number {
    const entry = request.node === ROOT_NODE ? this.#named(nameIn(request)) : undefined;
    if (entry === undefined) return -ENOENT;
    if (!entry.removed) return -EPERM;
    this.#entries.delete(entry.node);
    return 0;
  }

  #lookup(request: FuseRequest, answer: DataView): number {
    if (request.node !== ROOT_NODE) return -ENOTDIR;
    const entry = this.#named(nameIn(request));
    if (entry === undefined) return -ENOENT;
    answer.setBigUint64(0, BigInt(entry.node), true);
    answer.setBigUint64(16, ATTRIBUTES_VALID_SECONDS, true);
    answer.setBigUint64(24, ATTRIBUTES_VALID_SECONDS, true);
    putAttributes(answer, 40, this.#stat(entry));
    return ENTRY_OUT_BYTES;
  }

  #attributes(node: number, answer: DataView): number {
    const entry = this.#entry(node);
    if (node !== ROOT_NODE && entry === undefined) return -ENOENT;
    answer.setBigUint64(0, ATTRIBUTES_VALID_SECONDS, true);
    putAttributes(answer, 16, this.#stat(entry));
    return ATTR_OUT_BYTES;
  }

  /** Times may be set, and mean nothing; RAM has the size it has. */
  #setAttributes(request: FuseRequest, answer: DataView): number {
    const entry = this.#entry(request.node);
    if (request.bytes.byteLength < IN_HEADER_BYTES + 88) return -EINVAL;
    const valid = request.bytes.getUint32(IN_HEADER_BYTES, true);
    if ((valid & FATTR_SIZE) !== 0) {
      const size = Number(request.bytes.getBigUint64(IN_HEADER_BYTES + 16, true));
      if (entry === undefined || size !== entry.bytes) return -EPERM;
    }
    return this.#attributes(request.node, answer);
  }

  #stat(entry: Entry | undefined): NodeAttributes {
    const owner = { uid: this.#uid, gid: this.#gid };
    return entry === undefined
      ? { node: ROOT_NODE, bytes: 0, mode: DIRECTORY_MODE, ...owner }
      : { node: entry.node, bytes: entry.bytes, mode: FILE_MODE, ...owner };
  }

  #open(request: FuseRequest, answer: DataView): number {
    const entry = this.#entry(request.node);
    if (entry === undefined) return -ENOENT;
    const messages = entry.holds !== 'memory';
    const flags = request.bytes.getUint32(IN_HEADER_BYTES, true);
    const dma = messages || (flags & constants.O_DIRECT) !== 0;
    if (dma && entry.dmaOpen) return -EBUSY;
    if (dma) entry.dmaOpen = true;
    const handle = HANDLES[entry.holds] ?? (dma ? DMA_HANDLE : CPU_HANDLE);
    answer.setBigUint64(0, BigInt(handle), true);
    // Another opener must not drop what the CPU has cached; messages are not for any cache.
    answer.setUint32(8, messages ? FOPEN_DIRECT_IO : FOPEN_KEEP_CACHE, true);
    return OPEN_OUT_BYTES;
  }

  #release(request: FuseRequest): number {
    const entry = this.#entry(request.node);
    const handle = Number(request.bytes.getBigUint64(IN_HEADER_BYTES, true));
    if (entry !== undefined && handle !== CPU_HANDLE) entry.dmaOpen = false;
    return 0;
  }

  #readDirectory(request: FuseRequest, answer: DataView): number {
    if (request.node !== ROOT_NODE) return -ENOTDIR;
    const from = Number(request.bytes.getBigUint64(IN_HEADER_BYTES + 8, true));
    const room = Math.min(request.bytes.getUint32(IN_HEADER_BYTES + 16, true), answer.byteLength);
    const names = [
      { node: ROOT_NODE, name: '.', type: DT_DIR },
      { node: ROOT_NODE, name: '..', type: DT_DIR },
      ...[...this.#entries.values()].map(({ node, name }) => ({ node, name, type: DT_REG })),
    ];
    let at = 0;
    for (const [index, { node, name, type }] of names.entries()) {
      if (index < from) continue;
      const bytes = this.#encoder.encode(name);
      if (at + direntBytes(bytes) > room) break;
      at += putDirent(answer, at, { node, next: index + 1, name: bytes, type });
    }
    return at;
  }
}

/** The name behind the header, which a NUL ends. */
function nameIn({ bytes: { buffer, byteOffset, byteLength } }: FuseRequest): string {
  const bytes = new Uint8Array(buffer, byteOffset + IN_HEADER_BYTES, byteLength - IN_HEADER_BYTES);
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(bytes.subarray(0, end < 0 ? bytes.length : end));
}
