import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Numbers of the protocol, written out apart from the client's own. */
export const Command = {
  version: 1,
  dmaMap: 2,
  deviceInfo: 4,
  regionInfo: 5,
  irqInfo: 7,
  setIrqs: 8,
  regionRead: 9,
  regionWrite: 10,
  dmaRead: 11,
  dmaWrite: 12,
  reset: 13,
} as const;

const HEADER = 16;

/** A request as it came. */
export interface Asked {
  readonly id: number;
  readonly command: number;
  readonly body: Buffer;
}

/**
 * What a server does with a request: answer so, with these raw bytes, with an errno, close, or say
 * nothing. Undefined: as a good one would.
 */
export type Answer =
  | { readonly body: Buffer }
  | { readonly raw: Buffer }
  | { readonly errno: number }
  | 'close'
  | 'silence'
  | undefined;

/** A vfio-user server of a device with one BAR of 4096 bytes, which does one thing wrong. */
export class ScriptedServer implements Disposable {
  readonly path: string;
  readonly asked: Asked[] = [];
  readonly #directory = mkdtempSync(join(tmpdir(), 'sealbus-bad-'));
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #answer: (asked: Asked, socket: Socket) => Answer;

  static async start(
    answer: (asked: Asked, socket: Socket) => Answer = () => undefined,
  ): Promise<ScriptedServer> {
    const server = new ScriptedServer(answer);
    await new Promise<void>((resolve) => server.#server.listen(server.path, resolve));
    return server;
  }

  private constructor(answer: (asked: Asked, socket: Socket) => Answer) {
    this.path = join(this.#directory, 's');
    this.#answer = answer;
    this.#server = createServer((socket) => this.#serve(socket));
  }

  /** Reads no more of what its clients send. */
  stopReading(): void {
    for (const socket of this.#sockets) socket.pause();
  }

  /** Sends to every client. */
  send(bytes: Buffer): void {
    for (const socket of this.#sockets) socket.write(bytes);
  }

  [Symbol.dispose](): void {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    rmSync(this.#directory, { recursive: true, force: true });
  }

  #serve(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on('error', () => {});
    let received = Buffer.alloc(0);
    socket.on('data', (data) => {
      received = Buffer.concat([received, data]);
      while (received.length >= HEADER) {
        const size = received.readUInt32LE(4);
        if (received.length < size) return;
        this.#take(socket, received.subarray(0, size));
        received = received.subarray(size);
      }
    });
  }

  #take(socket: Socket, bytes: Buffer): void {
    const asked = {
      id: bytes.readUInt16LE(0),
      command: bytes.readUInt16LE(2),
      body: Buffer.from(bytes.subarray(HEADER)),
    };
    this.asked.push(asked);
    if ((bytes.readUInt32LE(8) & 0xf) !== 0) return; // an answer to us
    const answer = this.#answer(asked, socket) ?? { body: goodAnswer(asked) };
    if (answer === 'close') socket.destroy();
    else if (answer === 'silence') return;
    else if ('raw' in answer) socket.write(answer.raw);
    else if ('errno' in answer)
      socket.write(message(asked, 1 | 0x20, Buffer.alloc(0), answer.errno));
    else socket.write(message(asked, 1, answer.body));
  }
}

/** A message with its header. @param flags 0 a command, 1 a reply, 0x20 an error */
export function message(
  { id, command }: Pick<Asked, 'id' | 'command'>,
  flags: number,
  body: Buffer,
  errno = 0,
): Buffer {
  const header = Buffer.alloc(HEADER);
  header.writeUInt16LE(id, 0);
  header.writeUInt16LE(command, 2);
  header.writeUInt32LE(HEADER + body.length, 4);
  header.writeUInt32LE(flags, 8);
  header.writeUInt32LE(errno, 12);
  return Buffer.concat([header, body]);
}

export function words(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  for (const [index, value] of values.entries()) bytes.writeUInt32LE(value >>> 0, 4 * index);
  return bytes;
}

/** The version message's body. */
export function version(major: number, minor: number, json: string): Buffer {
  return Buffer.concat([Buffer.from([major, 0, minor, 0]), Buffer.from(`${json}\0`)]);
}

function goodAnswer({ command, body }: Asked): Buffer {
  switch (command) {
    case Command.version:
      return version(0, 1, '{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":4096}}');
    case Command.deviceInfo:
      return words(16, 2, 9, 5);
    case Command.regionInfo: {
      const index = body.readUInt32LE(8);
      const size = index === 0 ? 4096 : index === 7 ? 256 : 0;
      return words(32, 3, index, 0, size, 0, 0, 0);
    }
    case Command.irqInfo: {
      const index = body.readUInt32LE(8);
      return words(16, 1, index, index === 0 ? 1 : 0);
    }
    case Command.regionRead:
      return Buffer.concat([body.subarray(0, 16), Buffer.alloc(body.readUInt32LE(12), 0x5a)]);
    case Command.regionWrite:
      return body.subarray(0, 16);
    default:
      return Buffer.alloc(0);
  }
}
