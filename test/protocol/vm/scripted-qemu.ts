import { createServer, type Socket } from 'node:net';
import { functionId, portId } from '../../../src/vm/root-ports.ts';

type Arguments = Readonly<Record<string, unknown>>;

/** What is said to a command: a reply, an error of QEMU's, or nothing at all. */
export type Reply =
  | { readonly return: unknown }
  | { readonly error: { readonly class: string; readonly desc: string } }
  | undefined;

export type Answer = (args: Arguments, qemu: ScriptedQemu) => Reply | Promise<Reply>;

export const done: Reply = { return: {} };
export const refused = (desc: string, kind = 'GenericError'): Reply => ({
  error: { class: kind, desc },
});

/** A guest that lets go of a device as soon as it is asked. */
export const letsGo: Answer = ({ id }, qemu) => {
  qemu.lose(String(id));
  return done;
};

/**
 * The QMP of a QEMU that says what a test wants said, at a socket: to one client at a time, as QEMU does; the next
 * waits for its greeting until that one has gone. It knows the devices that it was given.
 */
export class ScriptedQemu implements AsyncDisposable {
  /** Commands in the order in which they came, with the device that they are about. */
  readonly asked: string[] = [];
  /** As command line and device_add name them. */
  readonly devices: Set<string>;
  readonly #server = createServer((socket) => this.#serve(socket));
  readonly #clients = new Set<Socket>();
  readonly #waiting: Socket[] = [];
  readonly #answers: Readonly<Record<string, Answer>>;
  readonly #greets: boolean;

  /**
   * @param ports how many root ports it has
   * @param answers in place of its own to `device_add` and `device_del`, which do nothing and say that it is done
   */
  static async at(
    path: string,
    ports: number,
    answers: Readonly<Record<string, Answer>> = {},
    greets = true,
  ): Promise<ScriptedQemu> {
    const qemu = new ScriptedQemu(ports, answers, greets);
    await new Promise<void>((resolve, reject) => {
      qemu.#server.once('error', reject).listen(path, resolve);
    });
    return qemu;
  }

  private constructor(ports: number, answers: Readonly<Record<string, Answer>>, greets: boolean) {
    this.devices = new Set(Array.from({ length: ports }, (_, index) => portId(index + 1)));
    this.#answers = answers;
    this.#greets = greets;
  }

  /** Clients that are connected. */
  get clients(): number {
    return this.#clients.size;
  }

  /** A function that its guest has from its boot. */
  has(port: number): void {
    this.devices.add(functionId(port));
  }

  /** A device is gone, and its clients are told. */
  lose(id: string): void {
    this.devices.delete(id);
    this.event('DEVICE_DELETED', { device: id, path: `/machine/peripheral/${id}` });
  }

  event(event: string, data: unknown): void {
    this.write(`${JSON.stringify({ event, data, timestamp: { seconds: 1, microseconds: 0 } })}\n`);
  }

  write(text: string): void {
    for (const client of this.#clients) client.write(text);
  }

  hangUp(): void {
    for (const client of this.#clients) client.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.hangUp();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #serve(socket: Socket): void {
    this.#clients.add(socket);
    this.#waiting.push(socket);
    socket
      .on('error', () => {})
      .on('close', () => {
        this.#clients.delete(socket);
        const first = this.#waiting.indexOf(socket) === 0;
        this.#waiting.splice(this.#waiting.indexOf(socket), 1);
        if (first) this.#greet();
      });
    if (this.#waiting.length === 1) this.#greet();
  }

  /** Whoever is first in line. */
  #greet(): void {
    const [socket] = this.#waiting;
    if (!this.#greets || socket === undefined) return;
    const version = { qemu: { major: 11, minor: 1, micro: 3 } };
    socket.write(`${JSON.stringify({ QMP: { version, capabilities: [] } })}\r\n`);
    let text = '';
    socket.setEncoding('utf8').on('data', (chunk: string) => {
      text += chunk;
      for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
        void this.#take(socket, text.slice(0, end));
        text = text.slice(end + 1);
      }
    });
  }

  async #take(socket: Socket, line: string): Promise<void> {
    const { execute, arguments: args = {}, id } = JSON.parse(line);
    if (args.id !== undefined) this.asked.push(`${execute} ${args.id}`);
    const reply = await (this.#answers[execute] ?? this.#own(execute))(args, this);
    if (reply !== undefined) socket.write(`${JSON.stringify({ ...reply, id })}\n`);
  }

  #own(command: string): Answer {
    if (command !== 'qom-list') return () => done;
    return () => ({ return: [...this.devices].map((name) => ({ name, type: 'child<device>' })) });
  }
}
