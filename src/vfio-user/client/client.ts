/**
 * A vfio-user client: the part of a VMM that drives one device, for tests and for programs that want
 * a device without a guest. vfio-user specification, version 0.1.
 */

import {
  COMMAND,
  DMA_MAP_BYTES,
  DMA_READABLE,
  DMA_UNMAP_ALL,
  DMA_UNMAP_BYTES,
  DMA_WRITABLE,
  HEADER_BYTES,
  IRQ_ACTION_MASK,
  IRQ_ACTION_TRIGGER,
  IRQ_ACTION_UNMASK,
  IRQ_DATA_EVENTFD,
  IRQ_DATA_NONE,
  IRQ_INDEX,
  REGION_ACCESS_BYTES,
  REGION_CONFIG,
  SET_IRQS_BYTES,
} from '../protocol.ts';
import { Connection, type ConnectionEvents, ConnectionLost } from './connection.ts';
import { answerDma, type DmaMemory } from './dma-by-message.ts';

export { InterruptEvent } from './interrupt-event.ts';

const VERSION_MAJOR = 0;
const VERSION_MINOR = 1;
const BODY = HEADER_BYTES;

/** What the specification gives a side that names none. */
const DATA_BYTES_DEFAULT = 1024 * 1024;
const MESSAGE_DESCRIPTORS_DEFAULT = 1;
/** What we send at most, whatever a server takes. */
const MESSAGE_DESCRIPTORS_OURS = 64;
/** Capabilities that the list may have: more than fit between 0x40 and 0xff are a loop. */
const CAPABILITIES_MAX = 48;

export interface ClientOptions {
  /** For each request; default 5000. */
  readonly timeoutMs?: number;
  /** Guest memory for servers that ask for it by message. Default: they are refused. */
  readonly memory?: DmaMemory;
  /** Told once when the connection has ended, also by {@link VfioUserClient.close}. */
  readonly onLost?: (why: ConnectionLost) => void;
}

export interface DeviceInfo {
  readonly flags: number;
  readonly regions: number;
  readonly interrupts: number;
}

export interface RegionInfo {
  readonly index: number;
  readonly flags: number;
  readonly size: number;
}

export interface ServerVersion {
  readonly major: number;
  readonly minor: number;
  readonly capabilities: Readonly<Record<string, unknown>>;
  /** Data bytes that one message may carry. */
  readonly dataBytesMax: number;
  /** Descriptors that one message may carry. */
  readonly descriptorsMax: number;
}

export type InterruptKind = 'intx' | 'msi' | 'msix';

export interface DmaMapping {
  readonly gpa: number;
  readonly size: number;
  /** The memory behind it; without one the server would have to ask for each byte. */
  readonly file?: { readonly descriptor: number; readonly offset: number };
  /** Default true. */
  readonly readable?: boolean;
  /** Default true. */
  readonly writable?: boolean;
}

export class VfioUserClient implements Disposable {
  readonly connection: Connection;
  readonly version: ServerVersion;

  /** Connects and negotiates. @throws SystemError, VfioUserError, ConnectionLost */
  static async connect(path: string, options: ClientOptions = {}): Promise<VfioUserClient> {
    const { timeoutMs = 5000, memory, onLost } = options;
    const events: ConnectionEvents = {
      ...(memory === undefined
        ? {}
        : { request: (command, body) => answerDma(memory, command, body) }),
      ...(onLost === undefined ? {} : { lost: onLost }),
    };
    const connection = new Connection(path, timeoutMs, events);
    try {
      const offer = { capabilities: { max_msg_fds: 8, max_data_xfer_size: DATA_BYTES_DEFAULT } };
      const text = new TextEncoder().encode(`${JSON.stringify(offer)}\0`);
      const reply = await connection.request(
        ['VERSION', COMMAND.version, 4],
        4 + text.length,
        (view, bytes) => {
          view.setUint16(BODY, VERSION_MAJOR, true);
          view.setUint16(BODY + 2, VERSION_MINOR, true);
          bytes.set(text, BODY + 4);
        },
      );
      return new VfioUserClient(connection, parseVersion(reply.bytes, reply.view));
    } catch (error) {
      connection.close();
      throw error;
    }
  }

  private constructor(connection: Connection, version: ServerVersion) {
    this.connection = connection;
    this.version = version;
  }

  async deviceInfo(): Promise<DeviceInfo> {
    const { view } = await this.connection.request(
      ['DEVICE_GET_INFO', COMMAND.deviceInfo, 16],
      16,
      (body) => body.setUint32(BODY, 16, true),
    );
    return {
      flags: view.getUint32(BODY + 4, true),
      regions: view.getUint32(BODY + 8, true),
      interrupts: view.getUint32(BODY + 12, true),
    };
  }

  async regionInfo(index: number): Promise<RegionInfo> {
    const { view } = await this.connection.request(
      ['DEVICE_GET_REGION_INFO', COMMAND.regionInfo, 32],
      32,
      (body) => {
        body.setUint32(BODY, 32, true);
        body.setUint32(BODY + 8, index, true);
      },
    );
    return {
      index,
      flags: view.getUint32(BODY + 4, true),
      size: Number(view.getBigUint64(BODY + 16, true)),
    };
  }

  /** @returns how many vectors of the kind the device has */
  async interruptCount(kind: InterruptKind | 'error' | 'request'): Promise<number> {
    const { view } = await this.connection.request(
      ['DEVICE_GET_IRQ_INFO', COMMAND.irqInfo, 16],
      16,
      (body) => {
        body.setUint32(BODY, 16, true);
        body.setUint32(BODY + 8, IRQ_INDEX[kind], true);
      },
    );
    return view.getUint32(BODY + 12, true);
  }

  async regionRead(region: number, offset: number, length: number): Promise<Uint8Array> {
    const { bytes, view } = await this.connection.request(
      ['REGION_READ', COMMAND.regionRead, REGION_ACCESS_BYTES + length],
      REGION_ACCESS_BYTES,
      (view) => putAccess(view, region, offset, length),
    );
    const count = view.getUint32(BODY + 12, true);
    if (count !== length || bytes.length !== BODY + REGION_ACCESS_BYTES + length) {
      const got = bytes.length - BODY - REGION_ACCESS_BYTES;
      throw new Error(
        `expected ${length} bytes of region ${region} at 0x${offset.toString(16)}, got an answer that ` +
          `says ${count} and has ${got}: the server breaks the protocol`,
      );
    }
    return bytes.subarray(BODY + REGION_ACCESS_BYTES);
  }

  async regionWrite(region: number, offset: number, data: Uint8Array): Promise<void> {
    await this.connection.request(
      ['REGION_WRITE', COMMAND.regionWrite, REGION_ACCESS_BYTES],
      REGION_ACCESS_BYTES + data.length,
      (view, bytes) => {
        putAccess(view, region, offset, data.length);
        bytes.set(data, BODY + REGION_ACCESS_BYTES);
      },
    );
  }

  /** A posted write, as QEMU sends them: no answer, also where it was refused. */
  regionPost(region: number, offset: number, data: Uint8Array): void {
    this.connection.post(COMMAND.regionWrite, REGION_ACCESS_BYTES + data.length, (view, bytes) => {
      putAccess(view, region, offset, data.length);
      bytes.set(data, BODY + REGION_ACCESS_BYTES);
    });
  }

  /** @param width 1, 2 or 4 bytes */
  async readRegister(region: number, offset: number, width: 1 | 2 | 4 = 4): Promise<number> {
    const bytes = await this.regionRead(region, offset, width);
    return bytes.reduceRight((value, byte) => value * 256 + byte, 0);
  }

  /** @param width 1, 2 or 4 bytes */
  async writeRegister(
    region: number,
    offset: number,
    value: number,
    width: 1 | 2 | 4 = 4,
  ): Promise<void> {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, value >>> 0, true);
    await this.regionWrite(region, offset, bytes.subarray(0, width));
  }

  readConfig(offset: number, width: 1 | 2 | 4 = 4): Promise<number> {
    return this.readRegister(REGION_CONFIG, offset, width);
  }

  writeConfig(offset: number, value: number, width: 1 | 2 | 4 = 4): Promise<void> {
    return this.writeRegister(REGION_CONFIG, offset, value, width);
  }

  /** @returns where the capability lies in configuration space, or undefined */
  async findCapability(id: number): Promise<number | undefined> {
    let at = (await this.readConfig(0x34, 1)) & ~3;
    for (let hops = 0; at >= 0x40 && hops < CAPABILITIES_MAX; hops++) {
      const header = await this.readConfig(at, 2);
      if ((header & 0xff) === id) return at;
      at = (header >> 8) & ~3;
    }
    return undefined;
  }

  async mapDma(mapping: DmaMapping): Promise<void> {
    const { gpa, size, file, readable = true, writable = true } = mapping;
    await this.connection.request(
      ['DMA_MAP', COMMAND.dmaMap, 0],
      DMA_MAP_BYTES,
      (view) => {
        view.setUint32(BODY, DMA_MAP_BYTES, true);
        view.setUint32(
          BODY + 4,
          (readable ? DMA_READABLE : 0) | (writable ? DMA_WRITABLE : 0),
          true,
        );
        view.setBigUint64(BODY + 8, BigInt(file?.offset ?? 0), true);
        view.setBigUint64(BODY + 16, BigInt(gpa), true);
        view.setBigUint64(BODY + 24, BigInt(size), true);
      },
      file === undefined ? [] : [file.descriptor],
    );
  }

  async unmapDma(gpa: number, size: number): Promise<void> {
    await this.#unmap(0, gpa, size);
  }

  async unmapAllDma(): Promise<void> {
    await this.#unmap(DMA_UNMAP_ALL, 0, 0);
  }

  async #unmap(flags: number, gpa: number, size: number): Promise<void> {
    await this.connection.request(['DMA_UNMAP', COMMAND.dmaUnmap, 0], DMA_UNMAP_BYTES, (view) => {
      view.setUint32(BODY, DMA_UNMAP_BYTES, true);
      view.setUint32(BODY + 4, flags, true);
      view.setBigUint64(BODY + 8, BigInt(gpa), true);
      view.setBigUint64(BODY + 16, BigInt(size), true);
    });
  }

  async reset(): Promise<void> {
    await this.connection.request(['DEVICE_RESET', COMMAND.deviceReset, 0], 0, () => {});
  }

  /** Gives an eventfd to each vector from `start` on. */
  async wireInterrupts(
    kind: InterruptKind,
    start: number,
    eventfds: readonly number[],
  ): Promise<void> {
    const flags = IRQ_ACTION_TRIGGER | IRQ_DATA_EVENTFD;
    await this.setIrqs(flags, IRQ_INDEX[kind], start, eventfds.length, eventfds);
  }

  /** Takes all eventfds of the kind away. */
  async unwireInterrupts(kind: InterruptKind): Promise<void> {
    await this.setIrqs(IRQ_ACTION_TRIGGER | IRQ_DATA_NONE, IRQ_INDEX[kind], 0, 0);
  }

  async maskIntx(masked: boolean): Promise<void> {
    const action = masked ? IRQ_ACTION_MASK : IRQ_ACTION_UNMASK;
    await this.setIrqs(action | IRQ_DATA_NONE, IRQ_INDEX.intx, 0, 1);
  }

  async setIrqs(
    flags: number,
    index: number,
    start: number,
    count: number,
    eventfds: readonly number[] = [],
  ): Promise<void> {
    await this.connection.request(
      ['DEVICE_SET_IRQS', COMMAND.setIrqs, 0],
      SET_IRQS_BYTES,
      (view) => {
        for (const [word, value] of [SET_IRQS_BYTES, flags, index, start, count].entries()) {
          view.setUint32(BODY + 4 * word, value, true);
        }
      },
      eventfds,
    );
  }

  close(): void {
    this.connection.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function putAccess(view: DataView, region: number, offset: number, count: number): void {
  view.setBigUint64(BODY, BigInt(offset), true);
  view.setUint32(BODY + 8, region, true);
  view.setUint32(BODY + 12, count, true);
}

/** @throws ConnectionLost where the server speaks another version, or no JSON. */
function parseVersion(bytes: Uint8Array, view: DataView): ServerVersion {
  const major = view.getUint16(BODY, true);
  const minor = view.getUint16(BODY + 2, true);
  if (major !== VERSION_MAJOR || minor < VERSION_MINOR) {
    throw new ConnectionLost(
      `expected a server of vfio-user ${VERSION_MAJOR}.${VERSION_MINOR}, got ${major}.${minor}`,
    );
  }
  const text = new TextDecoder().decode(bytes.subarray(BODY + 4)).replace(/\0.*$/s, '');
  const capabilities = capabilitiesIn(text);
  const limit = (name: string, otherwise: number, most: number) => {
    const value = capabilities[name];
    const named = typeof value === 'number' && Number.isInteger(value) && value > 0;
    return named ? Math.min(value, most) : otherwise;
  };
  return {
    major,
    minor,
    capabilities,
    dataBytesMax: limit('max_data_xfer_size', DATA_BYTES_DEFAULT, DATA_BYTES_DEFAULT),
    descriptorsMax: limit('max_msg_fds', MESSAGE_DESCRIPTORS_DEFAULT, MESSAGE_DESCRIPTORS_OURS),
  };
}

function capabilitiesIn(text: string): Readonly<Record<string, unknown>> {
  let parsed: unknown;
  try {
    parsed = text === '' ? {} : JSON.parse(text);
  } catch {
    throw new ConnectionLost(
      `expected JSON in the server's version message, got ${JSON.stringify(text.slice(0, 80))}`,
    );
  }
  const found =
    typeof parsed === 'object' && parsed !== null && 'capabilities' in parsed
      ? parsed.capabilities
      : {};
  return typeof found === 'object' && found !== null ? (found as Record<string, unknown>) : {};
}
