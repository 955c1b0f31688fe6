/** QEMU's QMP where it listens at a UNIX socket (a chardev with server=on): for one client at a time. */
import { addAbortListener } from 'node:events';
import { connect, type Socket } from 'node:net';
import { QmpClient } from './qmp.ts';
import { VmError, VmTimeoutError } from './vm-error.ts';

/** A connection of ours, which whoever has asked for it ends. */
export interface QmpConnection extends Disposable {
  readonly qmp: QmpClient;
}

/**
 * @param signal ends it, whoever has it, and the wait for the greeting
 * @returns undefined where nobody listens there: QEMU has ended, or is none that was started with it
 * @throws VmTimeoutError where it does not greet; VmError where what listens is no QMP, or cannot be reached
 */
export async function connectQmp(
  path: string,
  greetingMs: number,
  signal?: AbortSignal,
): Promise<QmpConnection | undefined> {
  const socket = await connected(path);
  if (socket === undefined) return undefined;
  if (signal !== undefined) {
    const heard = addAbortListener(signal, () => socket.destroy());
    socket.once('close', () => heard[Symbol.dispose]());
  }
  try {
    const qmp = await QmpClient.connect(socket, greetingMs);
    return { qmp, [Symbol.dispose]: () => socket.destroy() };
  } catch (error) {
    socket.destroy();
    if (!(error instanceof VmTimeoutError)) throw error;
    throw new VmTimeoutError(
      `${error.message}: the QEMU at ${path} is stopped or hangs, or somebody else has its QMP. Go on with it, ` +
        'or end the other connection',
      { cause: error },
    );
  }
}

/** To a UNIX socket that is there a connection stands or is refused at once. */
function connected(path: string): Promise<Socket | undefined> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.off('error', refused);
      resolve(socket);
    });
    const refused = (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT' || error.code === 'ECONNREFUSED') resolve(undefined);
      else reject(new VmError(`expected to reach QEMU's QMP at ${path}, got ${error.message}`));
    };
    socket.once('error', refused);
  });
}
