/**
 * libvfio-user through FFI: the one module that names vfu_*. Addresses are numbers; a failed call is
 * a SystemError with its errno; an exception of a handler never crosses into C.
 */
import koffi from 'koffi';
import { SystemError } from '../ffi/libc.ts';

const VFU_TRANS_SOCK = 0;
const VFU_DEV_TYPE_PCI = 0;
const LIBVFIO_USER_FLAG_ATTACH_NB = 1;
const VFU_PCI_TYPE_CONVENTIONAL = 0;
const VFU_PCI_TYPE_EXPRESS = 3;
const PCI_HEADER_TYPE_NORMAL = 0;
const VFU_REGION_FLAG_RW = 3;
const VFU_REGION_FLAG_MEM = 4;
const VFU_REGION_FLAG_ALWAYS_CB = 8;
const VFU_PCI_DEV_CFG_REGION_IDX = 7;
const PROT_READ = 1;
const PROT_WRITE = 2;
const LOG_WARNING = 4;

const INTX = 0;
const RESETS = ['device', 'connection-lost', 'function-level'] as const;
export type VfuReset = (typeof RESETS)[number];

/** A DMA region as libvfio-user mapped it. */
export interface VfuDmaInfo {
  readonly iova: number;
  readonly size: number;
  /** Where the first byte lies in this process; 0 where the client gave no descriptor. */
  readonly address: number;
  readonly readable: boolean;
  readonly writable: boolean;
}

/** What the library calls, always inside {@link VfuContext.run} or {@link VfuContext.destroy}. */
export interface VfuHandlers {
  /** `count` bytes at `address` are to be filled or taken; the library has checked the bounds. */
  access(region: number, address: number, count: number, offset: number, write: boolean): void;
  reset(cause: VfuReset): void;
  mapped(info: VfuDmaInfo): void;
  /** The mapping goes away when this returns. */
  unmapping(info: VfuDmaInfo): void;
  /** The client masks or unmasks INTx. */
  intxMasked(masked: boolean): void;
  /** A warning or an error of the library. */
  log(message: string): void;
  /** A handler threw; the library was told that the access failed. */
  failed(doing: string, error: unknown): void;
}

export interface VfuShape {
  readonly express: boolean;
  /** Six entries; bytes. */
  readonly bars: readonly ({ readonly size: number; readonly memory: boolean } | undefined)[];
  /** Vectors by interrupt index: INTx, MSI, MSI-X, error, request. */
  readonly interrupts: readonly number[];
}

type Native = (...args: (number | bigint | string | null)[]) => number;

/** C prototypes; pointers are numbers, callbacks are what koffi.register gives. */
const PROTOTYPES = {
  create:
    'uintptr_t vfu_create_ctx(int trans, const char *path, int flags, uintptr_t pvt, int type)',
  destroy: 'void vfu_destroy_ctx(uintptr_t ctx)',
  setupLog: 'int vfu_setup_log(uintptr_t ctx, void *log, int level)',
  pciInit: 'int vfu_pci_init(uintptr_t ctx, int type, int header, int revision)',
  setupRegion:
    'int vfu_setup_region(uintptr_t ctx, int index, size_t size, void *access, int flags, uintptr_t areas, uint32_t count, int fd, uint64_t offset)',
  setupReset: 'int vfu_setup_device_reset_cb(uintptr_t ctx, void *reset)',
  setupDma: 'int vfu_setup_device_dma(uintptr_t ctx, void *mapped, void *unmapping)',
  setupIrqs: 'int vfu_setup_device_nr_irqs(uintptr_t ctx, int index, uint32_t count)',
  setupIrqState: 'int vfu_setup_irq_state_callback(uintptr_t ctx, int index, void *state)',
  realize: 'int vfu_realize_ctx(uintptr_t ctx)',
  attach: 'int vfu_attach_ctx(uintptr_t ctx)',
  pollFd: 'int vfu_get_poll_fd(uintptr_t ctx)',
  run: 'int vfu_run_ctx(uintptr_t ctx)',
  trigger: 'int vfu_irq_trigger(uintptr_t ctx, uint32_t subindex)',
} as const;

type Functions = Readonly<Record<keyof typeof PROTOTYPES, Native>>;

interface Library {
  readonly functions: Functions;
  readonly accessType: ReturnType<typeof koffi.pointer>;
  readonly resetType: ReturnType<typeof koffi.pointer>;
  readonly dmaType: ReturnType<typeof koffi.pointer>;
  readonly irqStateType: ReturnType<typeof koffi.pointer>;
  readonly logType: ReturnType<typeof koffi.pointer>;
}

const libraries = new Map<string, Library>();

function loaded(path: string): Library {
  let library = libraries.get(path);
  if (library === undefined) {
    const handle = koffi.load(path);
    const functions = Object.fromEntries(
      Object.entries(PROTOTYPES).map(([name, prototype]) => [name, handle.func(prototype)]),
    ) as unknown as Functions;
    const callback = (result: string, parameters: string[]) =>
      koffi.pointer(koffi.proto(result, parameters));
    library = {
      functions,
      accessType: callback('int64_t', ['uintptr_t', 'uintptr_t', 'size_t', 'int64_t', 'bool']),
      resetType: callback('int', ['uintptr_t', 'int']),
      dmaType: callback('void', ['uintptr_t', 'uintptr_t']),
      irqStateType: callback('void', ['uintptr_t', 'uint32_t', 'uint32_t', 'bool']),
      logType: callback('void', ['uintptr_t', 'int', 'const char *']),
    };
    libraries.set(path, library);
  }
  return library;
}

/** vfu_ctx_t: one device behind one socket. */
export class VfuContext {
  readonly #functions: Functions;
  readonly #context: number;
  readonly #callbacks: bigint[] = [];
  readonly #handlers: VfuHandlers;
  readonly #run: Native;
  readonly #trigger: Native;
  #destroyed = false;

  /**
   * Creates and realizes the context; it listens at `socketPath`, where no file may be.
   * @throws SystemError
   */
  constructor(libraryPath: string, socketPath: string, shape: VfuShape, handlers: VfuHandlers) {
    const library = loaded(libraryPath);
    const functions = library.functions;
    this.#functions = functions;
    this.#handlers = handlers;
    this.#run = functions.run;
    this.#trigger = functions.trigger;
    this.#context = functions.create(
      VFU_TRANS_SOCK,
      socketPath,
      LIBVFIO_USER_FLAG_ATTACH_NB,
      0,
      VFU_DEV_TYPE_PCI,
    );
    if (this.#context === 0) throw new SystemError('vfu_create_ctx', koffi.errno(), socketPath);
    try {
      this.#setUp(library, shape);
    } catch (error) {
      this.destroy();
      throw error;
    }
  }

  #setUp(library: Library, shape: VfuShape): void {
    const functions = this.#functions;
    const context = this.#context;
    const handlers = this.#handlers;
    const onLog = (_context: number, _level: number, message: string) => {
      this.#guarded('log', () => handlers.log(message));
    };
    const log = this.#register(onLog, library.logType);
    this.#checked('vfu_setup_log', functions.setupLog(context, log, LOG_WARNING));
    const type = shape.express ? VFU_PCI_TYPE_EXPRESS : VFU_PCI_TYPE_CONVENTIONAL;
    this.#checked('vfu_pci_init', functions.pciInit(context, type, PCI_HEADER_TYPE_NORMAL, 0));
    for (const [index, bar] of shape.bars.entries()) {
      if (bar === undefined) continue;
      const flags = VFU_REGION_FLAG_RW | (bar.memory ? VFU_REGION_FLAG_MEM : 0);
      this.#setUpRegion(library, index, bar.size, flags);
    }
    // All of configuration space comes to us: the library knows no MSI, takes one-byte writes of
    // two-byte registers, and copies past the end of a capability that a peer asks it to.
    const configBytes = shape.express ? 4096 : 256;
    const configFlags = VFU_REGION_FLAG_RW | VFU_REGION_FLAG_ALWAYS_CB;
    this.#setUpRegion(library, VFU_PCI_DEV_CFG_REGION_IDX, configBytes, configFlags);

    const onReset = (_context: number, kind: number) =>
      this.#guarded('reset', () => handlers.reset(RESETS[kind] ?? 'device')) ? 0 : -1;
    this.#checked(
      'vfu_setup_device_reset_cb',
      functions.setupReset(context, this.#register(onReset, library.resetType)),
    );
    // There is no quiesce callback: it exists to stop DMA of other threads before a mapping or a
    // reset. Every DMA here runs to its end inside one turn of the event loop, on the thread that
    // also calls vfu_run_ctx, so whenever the library works on a request no DMA is under way.
    const onMapped = (_context: number, info: number) => {
      this.#guarded('DMA map', () => handlers.mapped(dmaInfo(info)));
    };
    const onUnmapping = (_context: number, info: number) => {
      this.#guarded('DMA unmap', () => handlers.unmapping(dmaInfo(info)));
    };
    this.#checked(
      'vfu_setup_device_dma',
      functions.setupDma(
        context,
        this.#register(onMapped, library.dmaType),
        this.#register(onUnmapping, library.dmaType),
      ),
    );
    for (const [index, count] of shape.interrupts.entries()) {
      this.#checked('vfu_setup_device_nr_irqs', functions.setupIrqs(context, index, count));
    }
    const onIrqState = (_context: number, _start: number, _count: number, masked: boolean) => {
      this.#guarded('interrupt mask', () => handlers.intxMasked(masked));
    };
    this.#checked(
      'vfu_setup_irq_state_callback',
      functions.setupIrqState(context, INTX, this.#register(onIrqState, library.irqStateType)),
    );
    this.#checked('vfu_realize_ctx', functions.realize(context));
  }

  #setUpRegion(library: Library, index: number, size: number, flags: number): void {
    const handlers = this.#handlers;
    const onAccess = (
      _context: number,
      address: number,
      count: number,
      offset: number,
      write: boolean,
    ) => {
      try {
        handlers.access(index, address, count, offset, write);
        return count;
      } catch (error) {
        handlers.failed(`access to region ${index} at 0x${offset.toString(16)}`, error);
        koffi.errno(koffi.os.errno.EINVAL ?? 22);
        return -1;
      }
    };
    const access = this.#register(onAccess, library.accessType);
    this.#checked(
      'vfu_setup_region',
      this.#functions.setupRegion(this.#context, index, size, access, flags, 0, 0, -1, 0),
    );
  }

  /**
   * Takes the connection that waits and answers its version message, which must have arrived
   * whole: the library reads it blocking. @throws SystemError where the client was refused
   */
  attach(): void {
    this.#checked('vfu_attach_ctx', this.#functions.attach(this.#context));
  }

  /** The library's own descriptor: of the connection while attached, else of the listening socket. */
  get descriptor(): number {
    return this.#functions.pollFd(this.#context);
  }

  /**
   * Works on one request. @returns 0, or the errno: ENOTCONN after the client has gone (all regions
   * are unmapped then, and the descriptor of the connection is closed)
   */
  run(): number {
    return this.#run(this.#context) === -1 ? koffi.errno() : 0;
  }

  /** Writes the eventfd of a vector, where there is one. @returns 0 or the errno */
  trigger(vector: number): number {
    return this.#trigger(this.#context, vector) === -1 ? koffi.errno() : 0;
  }

  /** Disconnects, with the reset and the unmappings of a lost connection. Not inside a handler. */
  destroy(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    this.#functions.destroy(this.#context);
    for (const callback of this.#callbacks) koffi.unregister(callback);
  }

  #register(callback: (...args: never[]) => unknown, type: Library['logType']): bigint {
    const pointer = koffi.register(callback, type);
    this.#callbacks.push(pointer);
    return pointer;
  }

  #guarded(doing: string, action: () => void): boolean {
    try {
      action();
      return true;
    } catch (error) {
      this.#handlers.failed(doing, error);
      return false;
    }
  }

  #checked(name: string, result: number): void {
    if (result === -1) throw new SystemError(name, koffi.errno());
  }
}

/** struct vfu_dma_info: iova {base, length}, vaddr, mapping {base, length}, page_size, prot. */
function dmaInfo(info: number): VfuDmaInfo {
  const words = new BigUint64Array(koffi.view(BigInt(info), 56).slice(0));
  const protection = Number((words[6] ?? 0n) & 0xffffffffn);
  return {
    iova: Number(words[0]),
    size: Number(words[1]),
    address: Number(words[2]),
    readable: (protection & PROT_READ) !== 0,
    writable: (protection & PROT_WRITE) !== 0,
  };
}
