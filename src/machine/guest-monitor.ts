import { rmSync } from 'node:fs';
import { hotPlugPatience } from '../vm/hot-plug.ts';
import type { QmpClient } from '../vm/qmp.ts';
import { connectQmp, type QmpConnection } from '../vm/qmp-socket.ts';
import type { VirtualMachine } from '../vm/virtual-machine.ts';
import { VmError } from '../vm/vm-error.ts';

/** The QMP of a guest that runs, as long as it is needed. */
export interface GuestConnection extends Disposable {
  readonly qmp: QmpClient;
}

/** QEMU takes one client at a time: whoever needs it while it is open has the same one. */
interface SharedConnection {
  readonly opening: Promise<QmpConnection | undefined>;
  users: number;
}

/**
 * How to speak to the QEMU of a machine's guest while it runs: one that the machine has booted, or one of somebody
 * else's that listens at a socket of ours, if it was told to.
 */
export class GuestMonitor implements Disposable {
  /** Where a QEMU that somebody else starts is to listen with QMP; only its owner reaches the directory. */
  readonly socketPath: string;
  readonly #end = new AbortController();
  #shared: SharedConnection | undefined;
  #own: VirtualMachine | undefined;

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
    this.expectUp();
    const own = this.#own;
    if (own !== undefined) {
      return own.running ? { qmp: own.qmp, [Symbol.dispose]: () => {} } : undefined;
    }
    this.#shared ??= this.#connect(greetingMs);
    const shared = this.#shared;
    shared.users++;
    using share = new DisposableStack();
    share.defer(() => this.#release(shared));
    const connection = await shared.opening.catch((error: unknown) => {
      this.expectUp();
      throw error;
    });
    this.expectUp();
    if (connection === undefined) return undefined;
    const held = share.move();
    return { qmp: connection.qmp, [Symbol.dispose]: () => held.dispose() };
  }

  /** @throws VmError where its machine ends */
  expectUp(): void {
    if (!this.#end.signal.aborted) return;
    throw new VmError('expected a machine that is up, got one that ends');
  }

  /**
   * Whoever waits on a connection of ours, for its greeting or an answer, is told that it has ended. A socket that a
   * killed QEMU has left goes.
   */
  [Symbol.dispose](): void {
    this.#end.abort();
    rmSync(this.socketPath, { force: true });
  }

  #connect(greetingMs: number): SharedConnection {
    const opening = connectQmp(this.socketPath, greetingMs, this.#end.signal);
    const shared = { opening, users: 0 };
    opening.then(
      // Whoever comes after its end is to have another.
      (connection) => connection?.qmp.gone.then(() => this.#forget(shared)),
      () => {}, // who waits for it is told
    );
    return shared;
  }

  #release(shared: SharedConnection): void {
    if (--shared.users > 0) return;
    this.#forget(shared);
    shared.opening.then(
      (connection) => connection?.[Symbol.dispose](),
      () => {},
    );
  }

  #forget(shared: SharedConnection): void {
    if (this.#shared === shared) this.#shared = undefined;
  }
}
