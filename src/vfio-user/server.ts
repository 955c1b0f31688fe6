/**
 * One PCI function behind one vfio-user socket, on Node's event loop: attach, run, detach, attach
 * again for the next client.
 *
 * A wake of the socket works through what waits, message by message, at most MESSAGES_PER_TURN of
 * them, so that other servers and timers have their turn; the watch is level-triggered, so the
 * rest wakes again. At rest nothing runs.
 */
import { close, copyFromAddress, copyToAddress, SystemError } from '../ffi/libc.ts';
import { type ReadableWatch, watchReadable } from '../ffi/poll.ts';
import { endConnection } from '../ffi/unix-socket.ts';
import type { DmaPort } from '../pci/dma-port.ts';
import type { PciEndpoint, ResetCause, UnmodelledAccess } from '../pci/endpoint.ts';
import { Attachment } from './attachment.ts';
import { BoundedLog } from './bounded-log.ts';
import { type DmaRegion, DmaRegions, type RegionListener } from './dma-regions.ts';
import { Door } from './door.ts';
import { InterruptWires } from './interrupts.ts';
import { LiveConfigSpace } from './live-config-space.ts';
import { MessageGuard } from './message-guard.ts';
import { DATA_BYTES_MAX, ERRNO, REGION_CONFIG } from './protocol.ts';
import { Wakefulness } from './wakefulness.ts';

const MESSAGES_PER_TURN = 64;
/** How often to look for the rest of half a message, and for how long. */
const PARTIAL_LOOK_MS = 5;
const PARTIAL_WAIT_MS = 2000;

export interface VfioUserServerOptions {
  /** Path of libvfio-user's shared object. */
  readonly library: string;
  /** At most 107 bytes. */
  readonly socketPath: string;
  readonly endpoint: PciEndpoint;
  /** What the function is plugged with. */
  readonly dma: DmaPort;
  /** Told when the guest sets or clears the bus-master bit; false after any reset. */
  readonly busMaster?: (enabled: boolean) => void;
  /** Told of guest memory that the client maps and unmaps. */
  readonly onRegion?: RegionListener;
  /** Told when a client has come in or gone. */
  readonly onConnection?: (connected: boolean) => void;
  /** Faults of clients and of the function; already bounded. Default: standard error. */
  readonly log?: (message: string) => void;
}

export class VfioUserServer implements Disposable {
  readonly socketPath: string;
  readonly #endpoint: PciEndpoint;
  readonly #options: VfioUserServerOptions;
  readonly #log: BoundedLog;
  readonly #config: LiveConfigSpace;
  readonly #wires: InterruptWires;
  readonly #regions: DmaRegions;
  readonly #guard: MessageGuard;
  readonly #attachment: Attachment;
  readonly #door: Door;
  /** Views of one buffer, by length: 1 to 8 bytes are ready, longer ones are cut as needed. */
  readonly #buffer = new Uint8Array(new ArrayBuffer(DATA_BYTES_MAX));
  readonly #small = Array.from({ length: 9 }, (_, length) => this.#buffer.subarray(0, length));
  readonly #wakefulness = new Wakefulness();
  #connection: number | undefined;
  #watch: ReadableWatch | undefined;
  #partialSince: number | undefined;
  #running = false;
  /** Whether the message that is worked on has raised an interrupt. */
  #interrupted = false;
  #closed = false;
  /** Whether the function is in its place. */
  #present = true;

  /**
   * Plugs the function and listens. @throws Error where the socket path is taken; RangeError where
   * it is too long or the function contradicts itself; SystemError
   */
  static listen(options: VfioUserServerOptions): VfioUserServer {
    return new VfioUserServer(options);
  }

  private constructor(options: VfioUserServerOptions) {
    const { endpoint, socketPath } = options;
    checkBars(endpoint);
    this.socketPath = socketPath;
    this.#options = options;
    this.#endpoint = endpoint;
    const write = options.log ?? ((message) => process.stderr.write(`${message}\n`));
    this.#log = new BoundedLog((message) => write(`vfio-user ${socketPath}: ${message}`));
    this.#config = new LiveConfigSpace(endpoint, {
      busMaster: (enabled) => this.#options.busMaster?.(enabled),
      reset: (cause) => this.#reset(cause),
      intxDisable: () => this.#wires.intxDisableChanged(),
    });
    this.#wires = new InterruptWires(
      endpoint.interruptVectors,
      this.#config,
      (vector) => {
        this.#interrupted = true;
        return this.#attachment.context.trigger(vector);
      },
      (message) => this.#log.log(message),
    );
    this.#regions = new DmaRegions(options.onRegion);
    this.#guard = new MessageGuard(this.#regions, this.#wires);
    const shape = {
      express: endpoint.express,
      bars: endpoint.bars.map((bar) => bar && { size: bar.size, memory: bar.kind === 'memory' }),
      interrupts: this.#wires.counts,
    };
    this.#attachment = new Attachment(options.library, shape, {
      access: (region, address, count, offset, write) =>
        this.#access(region, address, count, offset, write),
      reset: (cause) => this.#reset(cause),
      mapped: (info) => this.#regions.mapped(info),
      unmapping: (info) => this.#regions.unmapping(info),
      intxMasked: (masked) => this.#wires.mask(masked),
      log: (message) => this.#log.log(message),
      failed: (doing, error) => this.#log.log(`${doing}: ${describe(error)}`),
    });
    try {
      this.#door = new Door(socketPath, {
        admit: (connection, version) => this.#admit(connection, version),
        log: (message) => this.#log.log(message),
      });
    } catch (error) {
      this.#attachment.destroy();
      throw error;
    }
    try {
      endpoint.plug({
        dma: options.dma,
        interrupts: this.#wires,
        unmodelled: (access) => this.#log.log(describeUnmodelled(access)),
        fault: (error) => this.#log.log(`the device failed: ${describe(error)}`),
        place: {
          reset: (cause) => this.#reset(cause),
          setPresent: (present) => {
            this.#present = present;
          },
        },
      });
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Whether a client is attached. */
  get connected(): boolean {
    return this.#connection !== undefined;
  }

  /** The guest memory that the client has mapped. */
  get regions(): readonly DmaRegion[] {
    return this.#regions.all;
  }

  /** Disconnects the client, with the unmappings and the reset of a lost connection, and stops. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#door.close();
    // Inside a handler the library still stands on its context: destroy it after.
    if (!this.#running) this.#destroy();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #destroy(): void {
    this.#attachment.destroy();
    this.#letGo();
  }

  #admit(connection: number, version: Uint8Array): number {
    // The last client may have gone without our having had a turn to see it.
    if (this.#connection !== undefined) this.#serve();
    if (this.#connection !== undefined && this.#attachment.detached) this.#letGo();
    if (this.#closed) return ERRNO.EBUSY;
    if (this.#connection !== undefined) {
      this.#log.log('refused a second client with EBUSY');
      return ERRNO.EBUSY;
    }
    const errno = this.#attachment.attach(connection, version);
    if (errno !== 0) {
      this.#log.log(`refused a client: ${new SystemError('vfu_attach_ctx', errno).message}`);
      return errno;
    }
    this.#connection = connection;
    this.#watch = watchReadable(connection, () => this.#serve());
    this.#options.onConnection?.(true);
    return 0;
  }

  #serve(): void {
    for (let turn = 0; turn < MESSAGES_PER_TURN; turn++) {
      const connection = this.#connection;
      if (connection === undefined || this.#running) return;
      switch (this.#guard.admit(connection)) {
        case 'run':
          this.#partialSince = undefined;
          this.#interrupted = false;
          this.#run();
          if (this.#interrupted) {
            this.#wakefulness.rest();
            return;
          }
          this.#wakefulness.message();
          break;
        case 'taken':
          this.#partialSince = undefined;
          this.#runTaken();
          break;
        case 'ended':
          this.#run();
          break;
        case 'refused':
          this.#log.log(`refused: ${this.#guard.why}`);
          break;
        case 'broken':
          this.#log.log(`disconnected the client: ${this.#guard.why}`);
          this.#drop();
          return;
        case 'partial':
          this.#awaitRest();
          return;
        case 'empty':
          return;
      }
    }
  }

  #run(ending = false): void {
    this.#running = true;
    let errno: number;
    try {
      errno = this.#attachment.context.run();
    } finally {
      this.#running = false;
    }
    this.#ran(errno, ending);
  }

  #runTaken(): void {
    const { taken } = this.#guard;
    const connection = this.#connection;
    if (taken === undefined || connection === undefined) return;
    this.#running = true;
    let errno: number;
    try {
      errno = this.#attachment.runTaken(connection, taken);
    } finally {
      this.#running = false;
    }
    this.#ran(errno, false);
  }

  #ran(errno: number, ending: boolean): void {
    if (this.#closed) {
      this.#destroy();
    } else if (errno === 0) {
      const { afterwards } = this.#guard;
      if (afterwards !== undefined) afterwards();
    } else if (errno === ERRNO.ENOTCONN || ending) {
      this.#letGo();
    } else {
      // Half an answer, or a request that the library gave up in the middle: nothing can follow.
      this.#log.log(`disconnected the client: ${new SystemError('vfu_run_ctx', errno).message}`);
      this.#drop();
    }
  }

  /**
   * Ends the connection. What still waits in it is forgotten first, for the library would work on
   * it unguarded; then it sees the end, unmaps, resets, and closes its side.
   */
  #drop(): void {
    if (this.#connection === undefined) return;
    endConnection(this.#connection);
    this.#run(true);
  }

  /** After the library has let go of the client. */
  #letGo(): void {
    this.#watch?.close();
    this.#watch = undefined;
    this.#partialSince = undefined;
    this.#wires.disconnected();
    if (this.#connection === undefined) return;
    close(this.#connection);
    this.#connection = undefined;
    this.#options.onConnection?.(false);
  }

  /** Half a message would wake the level-triggered watch again and again: look once in a while. */
  #awaitRest(): void {
    const now = performance.now();
    this.#partialSince ??= now;
    if (now - this.#partialSince > PARTIAL_WAIT_MS) {
      this.#log.log('disconnected the client: half a message, and no more of it came');
      this.#drop();
      return;
    }
    const watch = this.#watch;
    watch?.pause();
    setTimeout(() => watch?.resume(), PARTIAL_LOOK_MS);
  }

  #access(region: number, address: number, count: number, offset: number, write: boolean): void {
    const bytes = this.#small[count] ?? this.#buffer.subarray(0, count);
    const bar = region === REGION_CONFIG ? undefined : this.#endpoint.bars[region];
    const size = region === REGION_CONFIG ? this.#config.size : (bar?.size ?? 0);
    if (bytes.length !== count || !(offset >= 0 && offset + count <= size)) {
      throw new RangeError(`expected an access inside ${size} bytes, got ${count} at ${offset}`);
    }
    if (write) {
      copyFromAddress(bytes, address, count);
      if (bar === undefined) this.#writeConfig(offset, bytes);
      else this.#writeBar(region, offset, bytes);
    } else {
      if (bar === undefined) this.#readConfig(offset, bytes);
      else this.#readBar(region, offset, bytes);
      copyToAddress(address, bytes, count);
    }
  }

  #readConfig(offset: number, into: Uint8Array): void {
    if (this.#present) this.#config.read(offset, into);
    else into.fill(0xff);
  }

  #writeConfig(offset: number, from: Uint8Array): void {
    if (this.#present) this.#config.write(offset, from);
  }

  #readBar(bar: number, offset: number, into: Uint8Array): void {
    try {
      this.#endpoint.readBar(bar, offset, into);
    } catch (error) {
      // What a bus gives when nobody answers.
      into.fill(0xff);
      this.#log.log(`read of BAR${bar} at 0x${offset.toString(16)} threw: ${describe(error)}`);
    }
  }

  #writeBar(bar: number, offset: number, from: Uint8Array): void {
    try {
      this.#endpoint.writeBar(bar, offset, from);
    } catch (error) {
      this.#log.log(`write of BAR${bar} at 0x${offset.toString(16)} threw: ${describe(error)}`);
    }
  }

  #reset(cause: ResetCause): void {
    // DMA ends first, so that nothing of the function reaches memory from here on.
    this.#config.reset();
    try {
      this.#endpoint.reset(cause);
    } catch (error) {
      this.#log.log(`reset (${cause}) threw: ${describe(error)}`);
    }
    this.#wires.reset();
  }
}

/** libvfio-user holds a region's size in 32 bits. */
function checkBars(endpoint: PciEndpoint): void {
  for (const [index, bar] of endpoint.bars.entries()) {
    if (bar !== undefined && bar.size > 0x8000_0000) {
      throw new RangeError(`expected BAR${index} to have at most 2^31 bytes, got ${bar.size}`);
    }
  }
}

function describe(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}

function describeUnmodelled(access: UnmodelledAccess): string {
  const { bar, offset, width, direction, why } = access;
  return `unmodelled ${direction} of ${width} bytes at 0x${offset.toString(16)} of BAR${bar}: ${why}`;
}
