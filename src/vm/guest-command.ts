/** One command in the guest: its streams with their credits, and its end. */
import type { Readable, Writable } from 'node:stream';
import {
  encodeFrame,
  encodeUint32,
  encodeWindowSize,
  type Frame,
  type FrameType,
  frameType,
  payloadBytesMax,
  type StartRequest,
  stream,
  windowBytes,
} from './agent-protocol.ts';
import { VmError } from './vm-error.ts';

export interface RunOptions extends Omit<StartRequest, 'command'> {
  /** Nothing: the end of file at once. */
  readonly stdin?: Readable | Uint8Array;
  /** Nothing: what is written there is dropped. Neither is ended. */
  readonly stdout?: Writable;
  readonly stderr?: Writable;
  /** After it the command is terminated, a second later killed. */
  readonly timeoutMs?: number;
}

export interface CommandEnd {
  /** The command's own; 128 + n for signal n; 124 after a time-out; 255 where the guest panicked. */
  readonly exitCode: number;
  readonly ended: 'exited' | 'signalled' | 'timed-out' | 'panicked';
  /** Signal number, where that ended it. */
  readonly signal?: number;
}

export const timeoutExitCode = 124;
export const panicExitCode = 255;
const SIGKILL = 9;
const SIGPIPE = 13;
const SIGTERM = 15;
const killAfterMs = 1000;

export class GuestCommand {
  readonly ended: Promise<CommandEnd>;
  readonly #session: number;
  readonly #send: (frame: Buffer) => void;
  readonly #sinks: Readonly<Record<number, Writable | undefined>>;
  #resolve: (end: CommandEnd) => void = () => {};
  #reject: (error: Error) => void = () => {};
  #timers: NodeJS.Timeout[] = [];
  #timedOut = false;
  #over = false;
  /** Bytes of stdin that the guest takes now. */
  #credit = windowBytes;
  /** Bytes of output that the guest may still send, by stream. */
  readonly #granted: Record<number, number> = { 1: windowBytes, 2: windowBytes };
  #input: Buffer[] = [];
  #inputEnded = false;
  #stopInput: () => void = () => {};
  #resumeInput: () => void = () => {};
  #pendingWrites = 0;
  #exit: CommandEnd | undefined;

  constructor(session: number, options: RunOptions, send: (frame: Buffer) => void) {
    this.#session = session;
    this.#send = send;
    this.#sinks = { [stream.stdout]: options.stdout, [stream.stderr]: options.stderr };
    this.ended = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.ended.catch(() => {}); // the caller awaits it, perhaps later
    if (options.timeoutMs !== undefined) this.#limit(options.timeoutMs);
    this.#feed(options.stdin ?? Buffer.alloc(0));
    this.#guardSinks();
  }

  /** To the command's process group. */
  signal(number: number): void {
    if (!this.#over) this.#frame(frameType.signal, encodeUint32(number));
  }

  /** Of its terminal, where it has one. */
  resize(rows: number, columns: number): void {
    if (!this.#over) this.#frame(frameType.windowSize, encodeWindowSize(rows, columns));
  }

  /** A frame of this session. @throws VmError where the guest breaks the protocol */
  take(frame: Frame): void {
    switch (frame.type) {
      case frameType.output:
        this.#output(frame);
        break;
      case frameType.credit:
        this.#grant(frame);
        break;
      case frameType.exit:
        this.#exited(frame);
        break;
      default:
        throw new VmError(`expected output, credit or exit from the guest, got type ${frame.type}`);
    }
  }

  /** The guest is gone: the command ends so, or fails so. */
  finish(outcome: CommandEnd | Error): void {
    if (this.#over) return;
    this.#over = true;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#stopInput();
    this.#input = [];
    if (outcome instanceof Error) this.#reject(outcome);
    else this.#resolve(outcome);
  }

  #limit(timeoutMs: number): void {
    const terminate = () => {
      this.#timedOut = true;
      this.signal(SIGTERM);
      this.#timers.push(setTimeout(() => this.signal(SIGKILL), killAfterMs));
      // A guest that no longer answers does not hold up the caller.
      const giveUp = () => {
        this.#giveAllCredit();
        this.finish({ exitCode: timeoutExitCode, ended: 'timed-out' });
      };
      this.#timers.push(setTimeout(giveUp, 2 * killAfterMs));
    };
    this.#timers.push(setTimeout(terminate, timeoutMs));
  }

  #feed(source: Readable | Uint8Array): void {
    if (source instanceof Uint8Array) {
      this.#input = [Buffer.from(source.buffer, source.byteOffset, source.byteLength)];
      this.#inputEnded = true;
      queueMicrotask(() => this.#pump()); // the start frame goes first
      return;
    }
    const onData = (chunk: Buffer | string) => {
      this.#input.push(typeof chunk === 'string' ? Buffer.from(chunk) : chunk);
      this.#pump();
      if (this.#input.length > 0) source.pause();
    };
    const onEnd = () => {
      if (this.#inputEnded) return;
      this.#inputEnded = true;
      this.#pump();
    };
    source.on('data', onData).once('end', onEnd).once('close', onEnd).once('error', onEnd);
    this.#resumeInput = () => source.resume();
    this.#stopInput = () => {
      source.off('data', onData).off('end', onEnd).off('close', onEnd).off('error', onEnd);
      source.pause();
    };
    if (source.readableEnded || source.destroyed) queueMicrotask(onEnd);
  }

  #pump(): void {
    if (this.#over) return;
    while (this.#input.length > 0 && this.#credit > 0) {
      const head = this.#input[0]!;
      const piece = head.subarray(0, Math.min(this.#credit, payloadBytesMax));
      if (piece.length === head.length) this.#input.shift();
      else this.#input[0] = head.subarray(piece.length);
      if (piece.length === 0) continue; // an empty frame would be the end of file
      this.#credit -= piece.length;
      this.#frame(frameType.stdin, piece);
    }
    if (this.#input.length > 0) return;
    if (!this.#inputEnded) {
      this.#resumeInput();
      return;
    }
    this.#frame(frameType.stdin, Buffer.alloc(0));
    this.#inputEnded = false; // said once
    this.#stopInput();
    this.#resumeInput = () => {};
  }

  #grant({ payload }: Frame): void {
    const bytes = payload.length >= 4 ? payload.readUInt32LE(0) : 0;
    if (bytes > windowBytes - this.#credit) {
      throw new VmError(`expected a credit within the window from the guest, got ${bytes} bytes`);
    }
    this.#credit += bytes;
    this.#pump();
  }

  #output({ stream: number, payload }: Frame): void {
    const granted = this.#granted[number];
    if (granted === undefined || granted < payload.length) {
      throw new VmError(
        `expected at most ${granted ?? 0} bytes of stream ${number} from the guest, ` +
          `got ${payload.length}`,
      );
    }
    this.#granted[number] = granted - payload.length;
    const consumed = () => {
      this.#granted[number] = (this.#granted[number] ?? 0) + payload.length;
      if (!this.#over && !this.#exit) this.#giveCredit(number, payload.length);
    };
    const sink = this.#sinks[number];
    if (!sink || sink.destroyed) {
      consumed();
      return;
    }
    this.#pendingWrites += 1;
    sink.write(payload, () => {
      this.#pendingWrites -= 1;
      consumed();
      this.#settle();
    });
  }

  #giveCredit(streamNumber: number, bytes: number): void {
    const payload = encodeUint32(bytes);
    this.#send(encodeFrame(frameType.credit, this.#session, streamNumber as 1 | 2, payload));
  }

  /** A session without credit would stay in the guest for good, and fill one of its places. */
  #giveAllCredit(): void {
    if (this.#exit) return;
    for (const number of [stream.stdout, stream.stderr]) {
      const missing = windowBytes - (this.#granted[number] ?? 0);
      if (missing > 0) this.#giveCredit(number, missing);
    }
  }

  #exited({ payload }: Frame): void {
    if (payload.length < 8) throw new VmError('expected an exit frame of 8 bytes from the guest');
    const code = payload.readUInt32LE(0);
    const signal = payload.readUInt32LE(4);
    if (this.#timedOut) this.#exit = { exitCode: timeoutExitCode, ended: 'timed-out' };
    else if (signal > 0) this.#exit = { exitCode: 128 + signal, ended: 'signalled', signal };
    else this.#exit = { exitCode: code & 0xff, ended: 'exited' };
    this.#settle();
  }

  /** Ended, once all of its output is written. */
  #settle(): void {
    if (this.#exit && this.#pendingWrites === 0) this.finish(this.#exit);
  }

  /** A reader that left (EPIPE) ends the command as a pipe does. */
  #guardSinks(): void {
    for (const sink of new Set(Object.values(this.#sinks))) {
      if (!sink) continue;
      const onError = () => this.signal(SIGPIPE);
      sink.on('error', onError);
      this.ended.then(
        () => sink.off('error', onError),
        () => sink.off('error', onError),
      );
    }
  }

  #frame(type: FrameType, payload: Buffer): void {
    this.#send(encodeFrame(type, this.#session, stream.stdin, payload));
  }
}
