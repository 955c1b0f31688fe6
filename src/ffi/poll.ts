/**
 * Waiting for a descriptor on Node's event loop, without a thread and without spinning: libuv's
 * uv_poll through koffi. Its traps are kept here:
 * - the handle is closed when it is collected, so each is held until close();
 * - a throw in the callback would hang the process: errors are caught, and thrown again from an
 *   immediate, where they are uncaught exceptions as any other (nextTick and promises need no such
 *   help: they run after each callback);
 * - uv_poll_init sets O_NONBLOCK on the open file (all who share it see that).
 */
import koffi from 'koffi';

export interface ReadableWatch {
  /** Stops for good; call it before the descriptor is closed. Doing it twice is harmless. */
  close(): void;
  /** Stops and starts again, so that input that cannot be taken yet does not wake the loop. */
  pause(): void;
  resume(): void;
  /**
   * Calls back once, in a turn in which the descriptor may take output again; ask anew where it does
   * not. Input is watched as before.
   */
  onceWritable(callback: () => void): void;
  /** Whether the watch keeps the process alive (it does at first). */
  ref(): void;
  unref(): void;
}

const held = new Set<object>();

/**
 * Calls `onReadable` in each turn of the event loop in which `fd` has input, an end of file or an
 * error (level-triggered: what is not taken wakes again). The caller keeps the descriptor and closes
 * it after the watch.
 */
export function watchReadable(fd: number, onReadable: () => void): ReadableWatch {
  if (!Number.isInteger(fd) || fd < 0) {
    throw new RangeError(`expected an open descriptor, got ${fd}`);
  }
  let state: 'running' | 'paused' | 'closed' = 'running';
  let onWritable: (() => void) | undefined;
  const onPoll = () => {
    if (state === 'closed') return;
    try {
      const callback = onWritable;
      if (callback !== undefined) {
        onWritable = undefined;
        watch();
        callback();
      }
      if (state === 'running') onReadable();
    } catch (error) {
      setImmediate(() => {
        throw error;
      });
    }
  };
  const handle = koffi.node.poll(fd, { readable: true }, onPoll);
  held.add(handle);
  const watch = () => {
    const wanted = { readable: state === 'running', writable: onWritable !== undefined };
    if (wanted.readable || wanted.writable) handle.start(wanted, onPoll);
    else handle.stop();
  };
  return {
    close() {
      if (state === 'closed') return;
      state = 'closed';
      held.delete(handle);
      handle.close();
    },
    pause() {
      if (state !== 'running') return;
      state = 'paused';
      watch();
    },
    resume() {
      if (state !== 'paused') return;
      state = 'running';
      watch();
    },
    onceWritable(callback) {
      if (state === 'closed') return;
      onWritable = callback;
      watch();
    },
    ref: () => handle.ref(),
    unref: () => handle.unref(),
  };
}
