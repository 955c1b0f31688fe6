/**
 * A vfio-user client: the part of a VMM that drives one device, for tests and for programs that want
 * a device without a guest. vfio-user specification, version 0.1.
 */

import { close, eventfd, read } from '../../ffi/libc.ts';
import { type ReadableWatch, watchReadable } from '../../ffi/poll.ts';
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
import { Connection } from './connection.ts';

const VERSION_MAJOR = 0;
const VERSION_MINOR = 1;
const BODY = HEADER_BYTES;

export interface ClientOptions {
  /** For each request; default 5000. */
  readonly timeoutMs?: number;
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
    const connection = new Connection(path, options.timeoutMs ?? 5000);
    try {
      const offer = { capabilities: { max_msg_fds: 8, max_data_xfer_size: 1024 * 1024 } };
      const text = new TextEncoder().encode(`${JSON.stringify(offer)}\0`);
      const reply = await connection.request(
        ['VERSION', COMMAND.version],
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
      ['DEVICE_GET_INFO', COMMAND.deviceInfo],
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
      ['DEVICE_GET_REGION_INFO', COMMAND.regionInfo],
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
      ['DEVICE_GET_IRQ_INFO', COMMAND.irqInfo],
      16,
      (body) => {
        body.setUint32(BODY, 16, true);
        body.setUint32(BODY + 8, IRQ_INDEX[kind], true);
      },
    );
    return view.getUint32(BODY + 12, true);
  }

  async regionRead(region: number, offset: number, length: number): Promise<Uint8Array> {
    const { bytes } = await this.connection.request(
      ['REGION_READ', COMMAND.regionRead],
      REGION_ACCESS_BYTES,
      (view) => putAccess(view, region, offset, length),
    );
    return bytes.subarray(BODY + REGION_ACCESS_BYTES);
  }

  async regionWrite(region: number, offset: number, data: Uint8Array): Promise<void> {
    await this.connection.request(
      ['REGION_WRITE', COMMAND.regionWrite],
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
    let at = await this.readConfig(0x34, 1);
    for (let hops = 0; at !== 0 && hops < 48; hops++) {
      if ((await this.readConfig(at, 1)) === id) return at;
      at = await this.readConfig(at + 1, 1);
    }
    return undefined;
  }

  async mapDma(mapping: DmaMapping): Promise<void> {
    const { gpa, size, file, readable = true, writable = true } = mapping;
    await this.connection.request(
      ['DMA_MAP', COMMAND.dmaMap],
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
    await this.connection.request(['DMA_UNMAP', COMMAND.dmaUnmap], DMA_UNMAP_BYTES, (view) => {
      view.setUint32(BODY, DMA_UNMAP_BYTES, true);
      view.setUint32(BODY + 4, flags, true);
      view.setBigUint64(BODY + 8, BigInt(gpa), true);
      view.setBigUint64(BODY + 16, BigInt(size), true);
    });
  }

  async reset(): Promise<void> {
    await this.connection.request(['DEVICE_RESET', COMMAND.deviceReset], 0, () => {});
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
      ['DEVICE_SET_IRQS', COMMAND.setIrqs],
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

/** One interrupt as the VMM gets it: an eventfd that counts. */
export class InterruptEvent implements Disposable {
  readonly descriptor = eventfd();
  readonly #watch: ReadableWatch;
  readonly #value = new BigUint64Array(new ArrayBuffer(8));
  #count = 0;
  #wake: (() => void) | undefined;

  constructor() {
    this.#watch = watchReadable(this.descriptor, () => this.#take());
    this.#watch.unref();
  }

  /** Signals since the start. */
  get count(): number {
    this.#take();
    return this.#count;
  }

  /** Waits until there have been `count` signals. @throws Error after `timeoutMs` */
  async reach(count: number, timeoutMs = 5000): Promise<void> {
    const until = performance.now() + timeoutMs;
    while (this.count < count) {
      const left = until - performance.now();
      if (left <= 0) {
        throw new Error(`expected ${count} interrupts within ${timeoutMs} ms, got ${this.#count}`);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }

  [Symbol.dispose](): void {
    this.#watch.close();
    close(this.descriptor);
  }

  #take(): void {
    const got = read(this.descriptor, new Uint8Array(this.#value.buffer));
    if (got === undefined) return;
    this.#count += Number(this.#value[0]);
    this.#wake?.();
  }
}

function putAccess(view: DataView, region: number, offset: number, count: number): void {
  view.setBigUint64(BODY, BigInt(offset), true);
  view.setUint32(BODY + 8, region, true);
  view.setUint32(BODY + 12, count, true);
}

function parseVersion(bytes: Uint8Array, view: DataView): ServerVersion {
  const text = new TextDecoder().decode(bytes.subarray(BODY + 4)).replace(/\0.*$/s, '');
  const parsed: unknown = text === '' ? {} : JSON.parse(text);
  const capabilities =
    typeof parsed === 'object' && parsed !== null && 'capabilities' in parsed
      ? (parsed.capabilities as Readonly<Record<string, unknown>>)
      : {};
  return { major: view.getUint16(BODY, true), minor: view.getUint16(BODY + 2, true), capabilities };
}
