/** The host's end of the agent's port: sessions of commands in the guest. */
import type { Duplex } from 'node:stream';
import {
  agentVersion,
  encodeFrame,
  encodeStart,
  encodeUint32,
  type Frame,
  FrameReader,
  frameType,
  sessionsMax,
} from './agent-protocol.ts';
import { type CommandEnd, GuestCommand, type RunOptions } from './guest-command.ts';
import { VmError } from './vm-error.ts';

/** What the agent says when it is ready. */
export interface AgentHello {
  /** As uname -r prints it. */
  readonly kernelRelease: string;
  /** Since the kernel began to count. */
  readonly uptimeMs: number;
}

export class Agent {
  /** Settles at the agent's first word. Rejects where the guest goes first. */
  readonly hello: Promise<AgentHello>;
  readonly #port: Duplex;
  #reader = new FrameReader();
  readonly #sessions = new Map<number, GuestCommand>();
  /** Those who wait for the agent's next first word. */
  #greeted: PromiseWithResolvers<AgentHello>[] = [];
  #nextSession = 1;
  #gone: Error | undefined;

  constructor(port: Duplex) {
    this.#port = port;
    this.hello = this.nextHello();
    port.on('data', (chunk: Buffer) => this.#take(chunk));
    port.on('error', () => {}); // QEMU is gone: its process says why
  }

  /**
   * Starts a command.
   * @throws VmError where it cannot be encoded, too many run, or the guest is gone
   */
  start(command: readonly string[], options: RunOptions = {}): GuestCommand {
    if (this.#gone) throw this.#gone;
    if (this.#sessions.size >= sessionsMax) {
      throw new VmError(`expected at most ${sessionsMax} commands at once in the guest`);
    }
    const start = encodeStart({ ...options, command });
    const session = this.#freeSession();
    const running = new GuestCommand(session, options, (frame) => this.#send(frame));
    this.#sessions.set(session, running);
    this.#send(encodeFrame(frameType.start, session, 0, start));
    const forget = () => this.#sessions.delete(session);
    running.ended.then(forget, forget);
    return running;
  }

  /**
   * The first word of an agent that is still to start, as after a reboot. Rejects where the guest goes
   * first.
   */
  nextHello(): Promise<AgentHello> {
    const waiting = Promise.withResolvers<AgentHello>();
    waiting.promise.catch(() => {}); // whoever awaits it sees it
    if (this.#gone) waiting.reject(this.#gone);
    else this.#greeted.push(waiting);
    return waiting.promise;
  }

  /** Asks an agent that runs already to say its first word again. */
  greet(): void {
    this.#send(encodeFrame(frameType.greet, 0));
  }

  /** The guest's machine was reset: what ran is gone, and a half frame is never finished. */
  restarted(error: Error): void {
    this.#reader = new FrameReader();
    for (const session of this.#sessions.values()) session.finish(error);
  }

  /**
   * Asks the guest to power off: as init the agent kills what runs, and asks the firmware; as a
   * service it asks systemd.
   */
  powerOff(): void {
    this.#send(encodeFrame(frameType.powerOff, 0));
  }

  /** The guest is gone: every command ends so. */
  end(error: Error, outcome: CommandEnd | Error = error): void {
    this.#gone ??= error;
    for (const waiting of this.#greeted.splice(0)) waiting.reject(error);
    for (const session of this.#sessions.values()) session.finish(outcome);
  }

  #freeSession(): number {
    while (this.#sessions.has(this.#nextSession)) this.#advance();
    const session = this.#nextSession;
    this.#advance();
    return session;
  }

  #advance(): void {
    this.#nextSession = (this.#nextSession % 0xffff) + 1;
  }

  #send(frame: Buffer): void {
    if (this.#gone || this.#port.destroyed) return;
    this.#port.write(frame);
  }

  #take(chunk: Buffer): void {
    try {
      for (const frame of this.#reader.push(chunk)) this.#handle(frame);
    } catch (error) {
      this.end(error instanceof Error ? error : new VmError(String(error)));
      this.#port.destroy();
    }
  }

  #handle(frame: Frame): void {
    const session = this.#sessions.get(frame.session);
    if (frame.type === frameType.hello) this.#greet(frame.payload);
    else if (session !== undefined) session.take(frame);
    else if (frame.type === frameType.output) this.#drop(frame);
  }

  /** What a session that was given up still says: with its credit back it can come to its end. */
  #drop({ session, stream, payload }: Frame): void {
    if (stream !== 1 && stream !== 2) return;
    this.#send(encodeFrame(frameType.credit, session, stream, encodeUint32(payload.length)));
  }

  #greet(payload: Buffer): void {
    const version = payload.length >= 8 ? payload.readUInt32LE(0) : 0;
    if (version !== agentVersion) {
      throw new VmError(
        `expected version ${agentVersion} of the agent in the guest, got ${version}: ` +
          'its image was built from another checkout',
      );
    }
    const hello = {
      uptimeMs: payload.readUInt32LE(4),
      kernelRelease: payload.subarray(8).toString('utf8'),
    };
    for (const waiting of this.#greeted.splice(0)) waiting.resolve(hello);
  }
}
