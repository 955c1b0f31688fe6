/** A client of QEMU's Machine Protocol: docs/interop/qmp-spec in QEMU's source. */
import type { Duplex } from 'node:stream';
import { VmError, VmTimeoutError } from './vm-error.ts';

/** QEMU's replies are short; this bounds one that never ends. */
const lineBytesMax = 16 << 20;
const commandTimeoutMs = 10_000;
/** Of what QEMU says of an error: it goes into logs and answers. */
const wordsMax = 500;

export interface QmpEvent {
  readonly event: string;
  readonly data: Readonly<Record<string, unknown>>;
}

/** QEMU refused a command. */
export class QmpError extends VmError {
  override readonly name = 'QmpError';
  /** QEMU's class of error: GenericError, CommandNotFound, … */
  readonly kind: string;

  constructor(command: string, kind: string, description: string) {
    super(`QEMU refused ${command}: ${description} (${kind})`);
    this.kind = kind;
  }
}

interface Pending {
  readonly command: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

export class QmpClient {
  readonly #stream: Duplex;
  readonly #pending = new Map<number, Pending>();
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  /** Those who wait for an event: what tells each that none will come. */
  readonly #awaiting = new Set<(error: Error) => void>();
  readonly #greeting: Promise<string>;
  #onGreeting: (version: string) => void = () => {};
  #onNoGreeting: (error: Error) => void = () => {};
  #nextId = 1;
  #partial: Buffer[] = [];
  #partialBytes = 0;
  #closed: Error | undefined;
  readonly #gone = Promise.withResolvers<Error>();

  private constructor(stream: Duplex) {
    this.#stream = stream;
    this.#greeting = new Promise((resolve, reject) => {
      this.#onGreeting = resolve;
      this.#onNoGreeting = reject;
    });
    this.#greeting.catch(() => {}); // whoever waits for it sees it
    stream.on('data', (chunk: Buffer) => this.#take(chunk));
    stream.on('error', (error) => this.#close(new VmError(`QMP failed: ${error.message}`)));
    stream.once('close', () => this.#close(new VmError('QEMU closed its QMP connection')));
  }

  /**
   * Waits for the greeting, and leaves the negotiation of capabilities.
   * @throws VmTimeoutError; VmError where the stream closes or is not QMP
   */
  static async connect(stream: Duplex, timeoutMs = commandTimeoutMs): Promise<QmpClient> {
    const client = new QmpClient(stream);
    const timer = setTimeout(() => {
      client.#onNoGreeting(
        new VmTimeoutError(`expected QEMU's QMP greeting within ${timeoutMs / 1000} s, got none`),
      );
    }, timeoutMs);
    try {
      await client.#greeting;
    } finally {
      clearTimeout(timer);
    }
    await client.execute('qmp_capabilities', {}, timeoutMs);
    return client;
  }

  /** QEMU's version, as the greeting has it: `11.1.3`. */
  get version(): Promise<string> {
    return this.#greeting;
  }

  /** Settles when the connection has ended, with why. */
  get gone(): Promise<Error> {
    return this.#gone.promise;
  }

  /** Every event from now on. Returns what ends it. */
  onEvent(listener: (event: QmpEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The first event of that name from now on. @throws VmTimeoutError; VmError as `execute` */
  async event(name: string, timeoutMs: number): Promise<QmpEvent> {
    if (this.#closed) throw this.#closed;
    return await new Promise((resolve, reject) => {
      const leave = () => {
        clearTimeout(timer);
        off();
        this.#awaiting.delete(fail);
      };
      const fail = (error: Error) => {
        leave();
        reject(error);
      };
      const off = this.onEvent((event) => {
        if (event.event !== name) return;
        leave();
        resolve(event);
      });
      this.#awaiting.add(fail);
      const late = () =>
        fail(new VmTimeoutError(`expected QMP event ${name} within ${timeoutMs / 1000} s`));
      const timer = setTimeout(late, timeoutMs);
    });
  }

  /** @throws QmpError where QEMU refuses; VmTimeoutError; VmError where the connection closes */
  async execute(
    command: string,
    args: Readonly<Record<string, unknown>> = {},
    timeoutMs = commandTimeoutMs,
  ): Promise<unknown> {
    if (this.#closed) throw this.#closed;
    const id = this.#nextId++;
    return await new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#pending.delete(id);
        reject(
          new VmTimeoutError(`expected QEMU's reply to ${command} within ${timeoutMs / 1000} s`),
        );
      }, timeoutMs);
      this.#pending.set(id, { command, resolve, reject, timer });
      this.#stream.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
    });
  }

  /** Asks QEMU to end; it closes the connection with or after its reply. */
  async quit(timeoutMs = 2000): Promise<void> {
    try {
      await this.execute('quit', {}, timeoutMs);
    } catch (error) {
      if (this.#closed) return; // ended before it replied: as asked
      throw error;
    }
  }

  /** Presses the guest's power button. */
  async powerDown(timeoutMs = 2000): Promise<void> {
    await this.execute('system_powerdown', {}, timeoutMs);
  }

  #take(chunk: Buffer): void {
    let rest = chunk;
    for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
      this.#partial.push(rest.subarray(0, end));
      rest = rest.subarray(end + 1);
      const line = Buffer.concat(this.#partial).toString('utf8').trim();
      this.#partial = [];
      this.#partialBytes = 0;
      if (line !== '') this.#message(line);
    }
    this.#partial.push(rest);
    this.#partialBytes += rest.length;
    if (this.#partialBytes > lineBytesMax) this.#abort(`a line over ${lineBytesMax} bytes`);
  }

  #message(line: string): void {
    const message = parseObject(line);
    if (!message) {
      this.#abort(line.slice(0, 80));
    } else if (isRecord(message.QMP)) {
      this.#onGreeting(versionOf(message.QMP));
    } else if (typeof message.event === 'string') {
      const event = { event: message.event, data: isRecord(message.data) ? message.data : {} };
      for (const listener of [...this.#listeners]) listener(event);
    } else {
      this.#reply(Number(message.id), message);
    }
  }

  #reply(id: number, message: Record<string, unknown>): void {
    const pending = this.#pending.get(id);
    if (!pending) return; // its time was up
    this.#pending.delete(id);
    clearTimeout(pending.timer);
    if (isRecord(message.error)) {
      const { class: kind, desc } = message.error;
      const words = (said: unknown) => String(said).slice(0, wordsMax);
      pending.reject(new QmpError(pending.command, words(kind), words(desc)));
    } else {
      pending.resolve(message.return);
    }
  }

  #abort(got: string): void {
    const error = new VmError(`expected QMP, a JSON object a line, got ${got}`);
    this.#close(error);
    this.#stream.destroy();
  }

  #close(error: Error): void {
    this.#closed ??= error;
    this.#gone.resolve(this.#closed);
    this.#onNoGreeting(error);
    for (const { reject, timer, command } of this.#pending.values()) {
      clearTimeout(timer);
      reject(new VmError(`${error.message} before it answered ${command}`));
    }
    this.#pending.clear();
    for (const fail of [...this.#awaiting]) fail(error);
  }
}

function versionOf(greeting: Record<string, unknown>): string {
  const version = isRecord(greeting.version) ? greeting.version.qemu : undefined;
  if (!isRecord(version)) return 'unknown';
  return [version.major, version.minor, version.micro].join('.');
}

function parseObject(line: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return isRecord(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
