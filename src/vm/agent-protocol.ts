/**
 * The frames between the host and the agent in the guest; the guest's side, with the layouts, is
 * qemu/agent/agent.h. A frame: u32 length, u16 session, u8 type, u8 stream, payload; little endian.
 */
import { VmError } from './vm-error.ts';

export const agentVersion = 1;
export const payloadBytesMax = 65_536;
/** Bytes of one stream that may be under way without a credit. */
export const windowBytes = 262_144;
export const sessionsMax = 16;
const stringsMax = 1024;
const headerBytes = 8;

export const frameType = {
  start: 1,
  stdin: 2,
  signal: 3,
  windowSize: 4,
  powerOff: 5,
  greet: 6,
  credit: 8,
  hello: 16,
  output: 17,
  exit: 18,
} as const;
export type FrameType = (typeof frameType)[keyof typeof frameType];

export const stream = { stdin: 0, stdout: 1, stderr: 2 } as const;
export type StreamNumber = (typeof stream)[keyof typeof stream];

export interface Frame {
  readonly type: number;
  readonly session: number;
  readonly stream: number;
  readonly payload: Buffer;
}

export interface StartRequest {
  readonly command: readonly string[];
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** A pseudo terminal in place of pipes; stderr then comes on stdout. */
  readonly terminal?: { readonly rows: number; readonly columns: number };
}

/** @throws RangeError where the payload is too long */
export function encodeFrame(
  type: FrameType,
  session: number,
  streamNumber: StreamNumber = 0,
  payload: Uint8Array = Buffer.alloc(0),
): Buffer {
  if (payload.length > payloadBytesMax) {
    throw new RangeError(`expected a payload to ${payloadBytesMax} bytes, got ${payload.length}`);
  }
  const frame = Buffer.allocUnsafe(headerBytes + payload.length);
  frame.writeUInt32LE(payload.length, 0);
  frame.writeUInt16LE(session, 4);
  frame.writeUInt8(type, 6);
  frame.writeUInt8(streamNumber, 7);
  frame.set(payload, headerBytes);
  return frame;
}

export function encodeUint32(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

export function encodeWindowSize(rows: number, columns: number): Buffer {
  return encodeUint32((rows & 0xffff) + (columns & 0xffff) * 0x10000);
}

/** @throws VmError where the command is empty, holds a NUL, or is too long for a frame */
export function encodeStart(request: StartRequest): Buffer {
  const { command, cwd = '/', env = {}, terminal } = request;
  const environment = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  const strings = [cwd, ...command, ...environment];
  if (command.length === 0) throw new VmError('expected a command to run in the guest, got none');
  if (strings.some((text) => text.includes('\0'))) {
    throw new VmError('expected arguments and environment without NUL characters, got one with');
  }
  const head = Buffer.alloc(12);
  head.writeUInt32LE(terminal ? 1 : 0, 0);
  head.writeUInt16LE((terminal?.rows ?? 0) & 0xffff, 4);
  head.writeUInt16LE((terminal?.columns ?? 0) & 0xffff, 6);
  const payload = Buffer.concat([head, ...strings.map((text) => Buffer.from(`${text}\0`))]);
  if (strings.length - 1 > stringsMax || payload.length > payloadBytesMax) {
    throw new VmError(
      `expected a command with its environment of at most ${stringsMax} strings and ` +
        `${payloadBytesMax} bytes, got ${strings.length - 1} and ${payload.length}`,
    );
  }
  payload.writeUInt16LE(command.length, 8);
  payload.writeUInt16LE(environment.length, 10);
  return payload;
}

/** Cuts a byte stream into frames; holds at most one that is not yet whole. */
export class FrameReader {
  #pieces: Buffer[] = [];
  #bytes = 0;

  /** The frames that this chunk completes. @throws VmError at a length over the bound */
  push(chunk: Buffer): Frame[] {
    this.#pieces.push(chunk);
    this.#bytes += chunk.length;
    const frames: Frame[] = [];
    if (this.#bytes < headerBytes) return frames;
    const all = this.#pieces.length === 1 ? chunk : Buffer.concat(this.#pieces);
    let at = 0;
    while (all.length - at >= headerBytes) {
      const length = all.readUInt32LE(at);
      if (length > payloadBytesMax) {
        throw new VmError(
          `expected a frame of at most ${payloadBytesMax} bytes from the guest, got ${length}`,
        );
      }
      if (all.length - at < headerBytes + length) break;
      frames.push({
        session: all.readUInt16LE(at + 4),
        type: all.readUInt8(at + 6),
        stream: all.readUInt8(at + 7),
        payload: all.subarray(at + headerBytes, at + headerBytes + length),
      });
      at += headerBytes + length;
    }
    this.#pieces = at < all.length ? [all.subarray(at)] : [];
    this.#bytes = all.length - at;
    return frames;
  }
}
