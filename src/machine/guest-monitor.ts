import { hotPlugPatience } from '../vm/hot-plug.ts';
import type { QmpClient } from '../vm/qmp.ts';
import { connectQmp, type QmpConnection } from '../vm/qmp-socket.ts';
import type { VirtualMachine } from '../vm/virtual-machine.ts';
import { VmError } from '../vm/vm-error.ts';

/** The QMP of a guest that runs, as long as it is needed. */
export interface GuestConnection extends Disposable {
  readonly qmp: QmpClient;
}

/**
 * How to speak to the QEMU of a machine's guest while it runs: one that the machine has booted, or one of somebody
 * else's that listens at a socket of ours, if it was told to.
 */
export class GuestMonitor implements Disposable {
  /** Where a QEMU that somebody else starts is to listen with QMP; only its owner reaches the directory. */
  readonly socketPath: string;
  readonly #open = new Set<QmpConnection>();
  #own: VirtualMachine | undefined;
  #closed = false;

  constructor(socketPath: string) {
    this.socketPath = socketPath;
  }

  /** From here on the guest is this one. */
  booted(guest: VirtualMachine): void {
    this.#own = guest;
  }

  /**
   * @returns undefined where no guest runs
   * @throws VmTimeoutError where its QEMU does not greet; VmError where it cannot be reached, or this has ended
   */
  async open({
    greetingMs = hotPlugPatience.greetingMs,
  } = {}): Promise<GuestConnection | undefined> {
    this.#expectUp();
    const own = this.#own;
    if (own !== undefined) {
      return own.running ? { qmp: own.qmp, [Symbol.dispose]: () => {} } : undefined;
    }
    const connection = await connectQmp(this.socketPath, greetingMs);
    if (connection === undefined) return undefined;
    if (this.#closed) connection[Symbol.dispose]();
    this.#expectUp();
    this.#open.add(connection);
    return {
      qmp: connection.qmp,
      [Symbol.dispose]: () => {
        this.#open.delete(connection);
        connection[Symbol.dispose]();
      },
    };
  }

  /** Whoever waits for an answer on a connection of ours is told that it has ended. */
  [Symbol.dispose](): void {
    this.#closed = true;
    for (const connection of this.#open) connection[Symbol.dispose]();
    this.#open.clear();
  }

  #expectUp(): void {
    if (this.#closed) throw new VmError('expected a machine that is up, got one that ends');
  }
}
