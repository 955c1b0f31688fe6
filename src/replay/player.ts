import { setImmediate as turn } from 'node:timers/promises';
import type { PciEndpoint, PciLink, UnmodelledAccess } from '../pci/endpoint.ts';
import { parseRequesterId } from '../pci/requester-id.ts';
import type { DmaEvent, RegisterEvent } from '../trace/event.ts';
import { RegisterNames } from '../trace/register-names.ts';
import { accessBytes, accessValue } from './access-value.ts';
import { around, type Difference } from './difference.ts';
import { eventWords, registerName, registerValue } from './event-words.ts';
import { RecordedOutputs } from './recorded-outputs.ts';
import { type DmaJudge, ReplayDmaPort } from './replay-dma-port.ts';
import { type ReplayError, ReplayStop } from './replay-stop.ts';
import type { ReplayTime } from './replay-time.ts';
import type { InputEvent, OutputEvent, Placed, PlacedOutput, Script } from './script.ts';

/** How long the device may take with what it does by something that the recording does not hold. */
const TURNS_MIN = 64;

export interface PlayerOptions {
  /** Nothing is known of what came after the last event. */
  readonly cut: boolean;
  /** How long an output is waited for that does not come by itself; milliseconds. */
  readonly patienceMs: number;
}

/**
 * Plays a function's part of a trace against a device: what came to it comes again, in order, each where
 * it stood between the device's own doings; and what the device does is held against what it did.
 *
 * Between two inputs that came in one turn of the event loop nothing of the device runs. Before any other
 * input its promises go on to where they wait, and one turn of the loop passes. An alarm of the device is
 * an input as well: it rings where it rang.
 */
export class Player implements DmaJudge {
  readonly #script: Script;
  readonly #device: PciEndpoint;
  readonly #time: ReplayTime;
  readonly #options: PlayerOptions;
  readonly #outputs: RecordedOutputs;
  readonly #names: RegisterNames;
  #asserted = false;
  #difference: Difference | undefined;
  #failure: ReplayError | undefined;
  #stopped = false;

  constructor(script: Script, device: PciEndpoint, time: ReplayTime, options: PlayerOptions) {
    this.#script = script;
    this.#device = device;
    this.#time = time;
    this.#options = options;
    this.#outputs = new RecordedOutputs(script, ({ t }) => time.goTo(t));
    this.#names = new RegisterNames(script.rid, script.plugged.event.bars);
  }

  /** Inputs that have been played. */
  get played(): number {
    return this.#outputs.played;
  }

  get stopped(): boolean {
    return this.#stopped;
  }

  /** @returns the first difference. @throws ReplayError; what the device throws when it is plugged in */
  async play(): Promise<Difference | undefined> {
    this.#compareShape();
    if (!this.#stopped) this.#device.plug(this.#link());
    for (const input of this.#script.inputs) {
      await this.#before(input);
      if (this.#stopped) break;
      this.#outputs.played++;
      this.#input(input);
      if (this.#stopped) break;
    }
    if (!this.#stopped) await this.#before(undefined);
    this.#end();
    if (this.#failure !== undefined) throw this.#failure;
    return this.#difference;
  }

  unlike(got: string): void {
    const { next, played } = this.#outputs;
    if (next !== undefined && next.after <= played) {
      this.#differ(next, eventWords(next.event), got);
      return;
    }
    const input = this.#script.inputs[played];
    if (input !== undefined) {
      this.#differ(input, `${eventWords(input.event)}, and nothing of the device before it`, got);
    } else if (this.#options.cut) {
      this.#stopped = true;
    } else {
      this.#differ(undefined, 'nothing more', got);
    }
  }

  otherData(event: DmaEvent, expected: string, got: string): void {
    const place = this.#script.all.find((placed) => placed.event === event);
    this.#differ(place, expected, got);
  }

  unusable(error: ReplayError): void {
    this.#failure ??= error;
    this.#stopped = true;
  }

  /** A device that a driver would not take for the recorded one. */
  #compareShape(): void {
    const { plugged } = this.#script;
    const { identity, interrupts, bars } = plugged.event;
    const device = this.#device;
    const shape = (
      { vendor, device: id, classCode, revision }: PciEndpoint['identity'],
      vectors: PciEndpoint['interruptVectors'],
      sizes: readonly (readonly [number, number])[],
    ) => {
      const hex = (value: number, digits: number) => value.toString(16).padStart(digits, '0');
      const { intx, msi, msix } = vectors;
      const windows = sizes.map(([bar, size]) => `BAR${bar} of 0x${size.toString(16)} bytes`);
      return (
        `${hex(vendor, 4)}:${hex(id, 4)} class ${hex(classCode, 6)} revision ${revision}, ` +
        `${intx} INTx, ${msi} MSI, ${msix} MSI-X, ${windows.join(', ') || 'no BAR'}`
      );
    };
    const expected = shape(
      identity,
      interrupts,
      bars.map(({ bar, size }) => [bar, size]),
    );
    const got = shape(
      device.identity,
      device.interruptVectors,
      device.bars.flatMap((window, bar) => (window === undefined ? [] : [[bar, window.size]])),
    );
    if (got !== expected) this.#differ(plugged, expected, got);
  }

  #link(): PciLink {
    return {
      dma: new ReplayDmaPort(parseRequesterId(this.#script.rid), this.#outputs, this),
      interrupts: {
        enabled: () => (this.#stopped ? this.#outputs.mode : this.#outputs.askMode()),
        message: (vector) => this.#message(vector),
        intx: (asserted) => this.#intx(asserted),
      },
      unmodelled: (access) => this.#unmodelled(access),
      fault: (error) => this.#fault(error),
      clock: () => this.#time.functionClock,
    };
  }

  /** Lets everything happen that stands before an input, or before the end. */
  async #before(input: Placed<InputEvent> | undefined): Promise<void> {
    const outputs = this.#outputs;
    const until = input?.event.t ?? this.#script.all.at(-1)?.event.t ?? 0;
    const { event } = input ?? {};
    if (event !== undefined && event.kind !== 'alarm' && event.sameTurn === true) {
      if (outputs.missing !== undefined) this.#miss(outputs.missing, input);
      return;
    }
    await promisesGoOn();
    this.#time.pass(until, event?.kind === 'alarm' ? event.alarm : undefined);
    await promisesGoOn();
    if (outputs.missing !== undefined && !this.#stopped) await this.#wait(input, until);
    if (this.#stopped || input === undefined) return;
    await this.#turn();
  }

  /** For what comes by a timer or a file of the device's own, of which the recording does not tell. */
  async #wait(input: Placed<InputEvent> | undefined, until: number): Promise<void> {
    const outputs = this.#outputs;
    const began = performance.now();
    for (let turns = 0; ; turns++) {
      const { missing } = outputs;
      if (missing === undefined || this.#stopped) return;
      if (turns >= TURNS_MIN && performance.now() - began > this.#options.patienceMs) {
        this.#miss(missing, input);
        return;
      }
      if (this.#time.ringOne(until)) {
        await promisesGoOn();
        continue;
      }
      // A device that looks at its clock again and again finds it as late as it was then.
      this.#time.goTo(Math.min(missing.event.t, until));
      await this.#turn();
    }
  }

  async #turn(): Promise<void> {
    this.#outputs.mayBeEarly = true;
    await turn();
    this.#outputs.mayBeEarly = false;
  }

  #input({ line, event }: Placed<InputEvent>): void {
    if (event.kind === 'alarm') {
      this.#time.ring(event.alarm, event.t);
      return;
    }
    this.#time.goTo(event.t);
    if (event.kind === 'reset') tolerate(() => this.#device.reset(event.cause));
    else this.#access(line, event);
  }

  #access(line: number, event: RegisterEvent): void {
    const { bar, offset, width, direction } = event;
    let bytes: Uint8Array;
    try {
      bytes = accessBytes(event);
    } catch (error) {
      this.unusable(error as ReplayError);
      return;
    }
    const size = this.#device.bars[bar]?.size ?? 0;
    if (offset + width > size) {
      this.#differ({ line, event }, eventWords(event), `BAR${bar} of 0x${size.toString(16)} bytes`);
      return;
    }
    if (direction === 'write') {
      tolerate(() => this.#device.writeBar(bar, offset, bytes));
      return;
    }
    const got = new Uint8Array(width);
    // What a bus gives when nobody answers.
    if (!tolerate(() => this.#device.readBar(bar, offset, got))) got.fill(0xff);
    if (this.#stopped || Buffer.compare(got, bytes) === 0) return;
    const words = `read ${registerName(event)} = ${registerValue(accessValue(got, event, this.#names))}`;
    this.#differ({ line, event }, eventWords(event), words);
  }

  #message(vector: number): void {
    if (this.#stopped) return;
    const { mode } = this.#outputs;
    const taken = this.#outputs.take(
      (event): event is OutputEvent =>
        event.kind === 'interrupt' && event.how !== 'intx' && event.vector === vector,
    );
    // One that the guest has not enabled goes nowhere, and is not recorded.
    if (taken !== undefined || mode === 'none' || mode === 'intx') return;
    this.unlike(`${mode === 'msi' ? 'MSI' : 'MSI-X'} vector ${vector}`);
  }

  #intx(asserted: boolean): void {
    if (this.#stopped || asserted === this.#asserted) return;
    this.#asserted = asserted;
    const taken = this.#outputs.take(
      (event): event is OutputEvent =>
        event.kind === 'interrupt' && event.how === 'intx' && event.asserted === asserted,
    );
    if (taken === undefined) this.unlike(`INTA# ${asserted ? 'asserted' : 'deasserted'}`);
  }

  #unmodelled({ bar, offset, width, direction, why }: UnmodelledAccess): void {
    if (this.#stopped) return;
    const taken = this.#outputs.take(
      (event): event is OutputEvent =>
        event.kind === 'unmodelled' &&
        event.bar === bar &&
        event.offset === offset &&
        event.width === width &&
        event.direction === direction,
    );
    const where = `BAR${bar}+0x${offset.toString(16)}`;
    if (taken === undefined) {
      this.unlike(`unmodelled ${direction} of ${width} bytes at ${where}: ${why}`);
    }
  }

  #fault(error: Error): void {
    if (this.#stopped || error instanceof ReplayStop) return;
    const taken = this.#outputs.take(
      (event): event is OutputEvent =>
        event.kind === 'device-error' && error.message.startsWith(event.message),
    );
    if (taken !== undefined) return;
    const frame = error.stack?.split('\n').find((text) => text.trimStart().startsWith('at '));
    const where = frame === undefined ? '' : ` (${frame.trim()})`;
    this.unlike(`the device throws: ${error.message}${where}`);
  }

  #miss(missing: PlacedOutput, input: Placed<InputEvent> | undefined): void {
    const until =
      input === undefined ? 'the end' : `line ${input.line} came: ${eventWords(input.event)}`;
    this.#differ(missing, eventWords(missing.event), `nothing until ${until}`);
  }

  #differ(place: Placed | undefined, expected: string, got: string): void {
    this.#stopped = true;
    if (this.#difference !== undefined) return;
    const script = this.#script;
    const line = place?.line ?? (script.all.at(-1)?.line ?? 0) + 1;
    const before = script.injected.filter((fault) => fault.line < line);
    const notes =
      before.length === 0 ? [] : [injectedNote(before.length, before.at(-1)?.line ?? 0)];
    this.#difference = {
      ...{ line, event: place?.event, expected, got, notes },
      around: around(script, line),
    };
  }

  /** Timers of the device's own must not keep the process. */
  #end(): void {
    this.#stopped = true;
    tolerate(() => this.#device.reset('connection-lost'));
  }
}

function injectedNote(count: number, line: number): string {
  return (
    `${count === 1 ? 'a fault was' : `${count} faults were`} injected before it, the last at line ${line}: ` +
    'what they did inside the device a replay does not do again'
  );
}

/**
 * What a device throws out of an access is its transport's to absorb. @returns whether it threw nothing
 */
function tolerate(access: () => void): boolean {
  try {
    access();
    return true;
  } catch {
    return false;
  }
}

/** Resolves when every promise has gone on to where it waits for something of the event loop. */
function promisesGoOn(): Promise<void> {
  return new Promise((resolve) => process.nextTick(resolve));
}
