import { checkLength, DMA_MAX_BYTES } from '../iommu/dma-length.ts';
import {
  DmaAbort,
  type DmaAccess,
  type DmaDirection,
  type DmaPort,
  type Iova,
} from '../pci/dma-port.ts';
import type { RequesterId } from '../pci/requester-id.ts';
import type { DmaEvent, FaultEvent } from '../trace/event.ts';
import { dataWords } from './event-words.ts';
import type { RecordedOutputs } from './recorded-outputs.ts';
import { ReplayError, ReplayStop } from './replay-stop.ts';
import type { OutputEvent } from './script.ts';

type Access = DmaEvent | FaultEvent;

/** Who hears of DMA that is not as in the recording. */
export interface DmaJudge {
  /** Whether the replay has ended. */
  readonly stopped: boolean;
  /** The device did `got` where the recording has something else. */
  unlike(got: string): void;
  /** The device wrote other bytes. */
  otherData(event: DmaEvent, expected: string, got: string): void;
  /** The recording has not what a replay needs. */
  unusable(error: ReplayError): void;
}

/** A port whose bytes and refusals come from a recording. */
export class ReplayDmaPort implements DmaPort {
  readonly rid: RequesterId;
  readonly maxBytes = DMA_MAX_BYTES;
  readonly #outputs: RecordedOutputs;
  readonly #judge: DmaJudge;

  constructor(rid: RequesterId, outputs: RecordedOutputs, judge: DmaJudge) {
    this.rid = rid;
    this.#outputs = outputs;
    this.#judge = judge;
  }

  readInto(iova: Iova, into: Uint8Array): void {
    const abort = this.#access('read', iova, into);
    if (abort === undefined) return;
    if (abort.reason === 'memory-failed') into.fill(0);
    throw abort;
  }

  writeFrom(iova: Iova, from: Uint8Array): void {
    const abort = this.#access('write', iova, from);
    if (abort !== undefined) throw abort;
  }

  readBatch(accesses: readonly DmaAccess[], count: number): number {
    return this.#batch('read', accesses, count);
  }

  writeBatch(accesses: readonly DmaAccess[], count: number): number {
    return this.#batch('write', accesses, count);
  }

  async read(iova: Iova, length: number): Promise<Uint8Array> {
    checkLength(length);
    const into = new Uint8Array(length);
    this.readInto(iova, into);
    return into;
  }

  async write(iova: Iova, bytes: Uint8Array): Promise<void> {
    this.writeFrom(iova, bytes);
  }

  #access(direction: DmaDirection, iova: Iova, bytes: Uint8Array): DmaAbort | undefined {
    checkLength(bytes.length);
    this.#goOn();
    const event = this.#outputs.take((output) => isAccess(output, direction, iova, bytes.length));
    if (event === undefined) {
      this.#judge.unlike(accessWords(direction, iova, bytes));
      throw new ReplayStop();
    }
    return this.#carryOut(event, iova, bytes);
  }

  /** What a batch makes is together in the recording, refusals before the rest. */
  #batch(direction: DmaDirection, accesses: readonly DmaAccess[], count: number): number {
    for (let i = 0; i < count; i++) checkLength((accesses[i] as DmaAccess).bytes.length);
    this.#goOn();
    const anyAccess = (event: OutputEvent): event is Access =>
      (event.kind === 'dma' || event.kind === 'fault') && event.direction === direction;
    const events = this.#outputs.together(count, anyAccess);
    const left = [...events];
    const pairs: (readonly [DmaAccess, Access])[] = [];
    for (let i = 0; i < count; i++) {
      const access = accesses[i] as DmaAccess;
      const { iova, bytes } = access;
      const at = left.findIndex((event) => isAccess(event, direction, iova, bytes.length));
      const [event] = at < 0 ? [] : left.splice(at, 1);
      if (event === undefined) {
        // Up to the first that the batch has not made, the recording is as the device has it.
        const made = events.findIndex((one) => left.includes(one));
        this.#outputs.takeAll(events.slice(0, made < 0 ? events.length : made));
        this.#judge.unlike(`${accessWords(direction, iova, bytes)}, one of a batch of ${count}`);
        throw new ReplayStop();
      }
      pairs.push([access, event]);
    }
    this.#outputs.takeAll(events);
    let refused = 0;
    for (const [access, event] of pairs) {
      access.abort = this.#carryOut(event, access.iova, access.bytes);
      if (access.abort === undefined) continue;
      refused++;
      if (access.abort.reason === 'memory-failed' && direction === 'read') access.bytes.fill(0);
    }
    return refused;
  }

  #carryOut(event: Access, iova: Iova, bytes: Uint8Array): DmaAbort | undefined {
    const { direction } = event;
    if (event.kind === 'fault') {
      return new DmaAbort(direction, iova, event.bytes, event.reason);
    }
    const data = Buffer.from(event.data ?? '', 'hex');
    if (direction === 'read') {
      if (data.length < bytes.length) {
        this.#judge.unusable(
          new ReplayError(
            `expected all ${bytes.length} bytes of the DMA read at ${event.iova} in the trace, got ` +
              `${data.length}: record it with new Trace({ dataBytesMax: Infinity }), or --data all`,
          ),
        );
        throw new ReplayStop();
      }
      bytes.set(data.subarray(0, bytes.length));
      return undefined;
    }
    // A recording that holds the first bytes only tells of those.
    const known = Math.min(data.length, bytes.length);
    if (Buffer.compare(data.subarray(0, known), bytes.subarray(0, known)) !== 0) {
      const at = firstOther(data, bytes);
      const tell = (all: Uint8Array) => dataWords(Buffer.from(all.subarray(at)).toString('hex'));
      const where = `DMA write of ${bytes.length} bytes at ${event.iova}, from byte ${at} on`;
      this.#judge.otherData(event, `${where}${tell(data)}`, `${where}${tell(bytes)}`);
      throw new ReplayStop();
    }
    return undefined;
  }

  #goOn(): void {
    if (this.#judge.stopped) throw new ReplayStop();
  }
}

function isAccess(
  event: OutputEvent,
  direction: DmaDirection,
  iova: Iova,
  length: number,
): event is Access {
  return (
    (event.kind === 'dma' || event.kind === 'fault') &&
    event.direction === direction &&
    event.bytes === length &&
    BigInt(event.iova) === BigInt(iova)
  );
}

function accessWords(direction: DmaDirection, iova: Iova, bytes: Uint8Array): string {
  const data = direction === 'write' ? dataWords(Buffer.from(bytes).toString('hex')) : '';
  return `DMA ${direction} of ${bytes.length} bytes at 0x${iova.toString(16)}${data}`;
}

function firstOther(a: Uint8Array, b: Uint8Array): number {
  let at = 0;
  while (a[at] === b[at]) at++;
  return at;
}
