/** A trace made by hand: events one microsecond apart, or where it is told to wait. */
import type { TraceEvent, TraceHeader } from '../../../../src/trace/index.ts';
import type { FunctionReport } from '../../../../src/trace/report/function-report.ts';
import { reportOf, type TraceReport } from '../../../../src/trace/report/report.ts';

type Timeless<E> = E extends TraceEvent ? Omit<E, 't'> : never;

export const RID = '00:05.0';
const HEADER: TraceHeader = {
  ...{ kind: 'trace', version: 1, epochMs: 0, memory: 'sealed', dataBytesMax: 0 },
};

/** Registers of the function that all these are of: what the tests ring, read and write. */
const REGISTERS = (
  [
    ['command', 0x00, 'read-write'],
    ['address', 0x04, 'read-write'],
    ['status', 0x08, 'read-only'],
    ['ring', 0x0c, 'write-only'],
    ['spare', 0x10, 'read-write'],
  ] as const
).map(([name, offset, access]) => ({
  ...{ name, offset, width: 4, count: 1, stride: 4, access, fields: {} },
}));
type Register = (typeof REGISTERS)[number]['name'];

export class MadeTrace {
  readonly #events: TraceEvent[] = [];
  #t = 0;

  constructor() {
    this.plugged();
  }

  /** Another like it comes to its place. */
  plugged(): this {
    return this.add({
      ...{ kind: 'function', rid: RID, name: 'Engine' },
      identity: {
        ...{ vendor: 1, device: 2, subsystemVendor: 1, subsystem: 0, revision: 0, classCode: 0 },
      },
      interrupts: { intx: 1, msi: 0, msix: 2 },
      bars: [{ bar: 0, size: 4096, registers: REGISTERS }],
    });
  }

  add(event: Timeless<TraceEvent>): this {
    this.#t += 1000;
    this.#events.push({ t: this.#t, ...event } as TraceEvent);
    return this;
  }

  wait(ms: number): this {
    this.#t += ms * 1e6;
    return this;
  }

  read(register: Register, value: number): this {
    return this.#access('read', register, value);
  }

  write(register: Register, value: number): this {
    return this.#access('write', register, value);
  }

  dma(options: { iova?: number; bytes?: number; write?: boolean; rid?: string } = {}): this {
    const { iova = 0, bytes = 4, write = false, rid = RID } = options;
    const at = `0x${iova.toString(16)}`;
    return this.add({
      ...{ kind: 'dma', rid, direction: write ? 'write' : 'read', iova: at, bytes },
      pieces: [{ gpa: at, bytes, slot: 1, private: true }],
    });
  }

  interrupt(vector = 0): this {
    return this.add({ kind: 'interrupt', rid: RID, how: 'msi-x', vector });
  }

  reset(cause: 'function-level' | 'device' | 'connection-lost' = 'function-level'): this {
    return this.add({ kind: 'reset', rid: RID, cause });
  }

  get report(): TraceReport {
    const events = this.#events;
    const end = { t: this.#t, kind: 'end', events: events.length, dropped: 0 } as const;
    return reportOf({ header: HEADER, events: () => events, end });
  }

  /** What is said of the one function. */
  get function(): FunctionReport {
    const [only] = this.report.functions;
    if (only === undefined) throw new Error('expected a report of the function');
    return only;
  }

  #access(direction: 'read' | 'write', register: Register, value: number): this {
    const offset = REGISTERS.find(({ name }) => name === register)?.offset ?? 0;
    return this.add({
      ...{ kind: 'register', rid: RID, direction, bar: 0, offset, width: 4, register },
      value: `0x${value.toString(16)}`,
    });
  }
}
