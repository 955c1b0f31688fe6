/** A command in the guest with this process's streams, or the guest's console as this terminal. */
import type { VirtualMachine } from '../vm/virtual-machine.ts';
import { EXIT_PANIC, EXIT_TIMEOUT } from './exit-code.ts';

export interface StreamOptions {
  readonly timeoutMs: number | undefined;
  readonly signal: AbortSignal;
}

/** A terminal on both sides where there is one here, else three streams that keep apart. */
export async function runInGuest(
  vm: VirtualMachine,
  command: readonly string[],
  { timeoutMs, signal }: StreamOptions,
): Promise<number> {
  const { stdin, stdout, stderr } = process;
  const interactive = stdin.isTTY === true && stdout.isTTY === true;
  const size = () => ({ rows: stdout.rows ?? 24, columns: stdout.columns ?? 80 });
  const running = vm.start(command, {
    stdin,
    stdout,
    stderr,
    ...(interactive ? { terminal: size() } : {}),
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  });
  const onResize = () => running.resize(size().rows, size().columns);
  const aborted = untilAborted(signal);
  if (interactive) {
    stdin.setRawMode(true);
    stdout.on('resize', onResize);
  }
  try {
    const { exitCode, ended } = await Promise.race([running.ended, aborted.promise]);
    // Without a word a command could as well have had that exit code by itself.
    if (ended === 'panicked') stderr.write(`sealbus: ${panicWords(vm)}\n`);
    if (ended === 'timed-out') {
      stderr.write(`sealbus: the command had not ended after ${(timeoutMs ?? 0) / 1000} s\n`);
    }
    return exitCode;
  } finally {
    aborted.forget();
    stdout.off('resize', onResize);
    if (interactive) stdin.setRawMode(false);
    // Input that the command did not take must not keep this process.
    stdin.destroy();
  }
}

const controlA = 0x01;

/** Takes the way out of what is typed: Ctrl-A X leaves, Ctrl-A Ctrl-A is one Ctrl-A. */
export class EscapeKeys {
  #escaped = false;

  /** @returns what goes to the guest, and whether the user leaves */
  take(typed: Uint8Array): { readonly bytes: Uint8Array; readonly leave: boolean } {
    const bytes: number[] = [];
    for (const byte of typed) {
      if (!this.#escaped && byte === controlA) {
        this.#escaped = true;
        continue;
      }
      if (this.#escaped && (byte === 0x78 || byte === 0x58)) {
        return { bytes: Uint8Array.from(bytes), leave: true };
      }
      if (this.#escaped && byte !== controlA) bytes.push(controlA);
      bytes.push(byte);
      this.#escaped = false;
    }
    return { bytes: Uint8Array.from(bytes), leave: false };
  }
}

/**
 * What is typed here goes to the guest's console, until the guest is off or the user leaves by
 * Ctrl-A X. What the console says is shown by whoever booted the guest.
 * @throws Error where QEMU or what it stands on ends otherwise; the signal's reason
 */
export async function beConsole(
  vm: VirtualMachine,
  { timeoutMs, signal }: StreamOptions,
): Promise<number> {
  const { stdin, stderr } = process;
  const interactive = stdin.isTTY === true;
  const keys = new EscapeKeys();
  const aborted = untilAborted(signal);
  let leave: (how: 'left') => void = () => {};
  const left = new Promise<'left'>((resolve) => {
    leave = resolve;
  });
  const onData = (chunk: Buffer) => {
    const taken = interactive ? keys.take(chunk) : { bytes: chunk, leave: false };
    if (!vm.console.write(taken.bytes, () => stdin.resume())) stdin.pause();
    if (taken.leave) leave('left');
  };
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<'late'>((resolve) => {
    if (timeoutMs !== undefined) timer = setTimeout(resolve, timeoutMs, 'late');
  });
  if (interactive) stdin.setRawMode(true);
  stdin.on('data', onData);
  try {
    const end = await Promise.race([vm.ended, left, late, aborted.promise]);
    if (end === 'late') {
      stderr.write(`\r\nsealbus: the guest was not off after ${(timeoutMs ?? 0) / 1000} s\n`);
      return EXIT_TIMEOUT;
    }
    if (end === 'left') {
      stderr.write('\r\nsealbus: the guest is turned off at once, as if by its mains\n');
      return 0;
    }
    if (end.kind === 'failed') throw end.error;
    if (end.kind === 'off') return 0;
    stderr.write(`\r\nsealbus: ${panicWords(vm)}\n`);
    return EXIT_PANIC;
  } finally {
    clearTimeout(timer);
    aborted.forget();
    stdin.off('data', onData);
    if (interactive) stdin.setRawMode(false);
    stdin.destroy();
  }
}

const shutDownTimeoutMs = 120_000;

/**
 * Has the guest shut itself down. One that cannot is turned off, which its file systems survive as a loss
 * of power; so is one that is still at it when the signal aborts.
 */
export async function shutDown(
  vm: Pick<VirtualMachine, 'powerOff' | 'stop'>,
  { log, signal }: { readonly log: (words: string) => void; readonly signal: AbortSignal },
): Promise<void> {
  const turnOff = () => void vm.stop().catch(() => {}); // whoever disposes of it hears why
  signal.addEventListener('abort', turnOff, { once: true });
  try {
    if ((await vm.powerOff(shutDownTimeoutMs)) || signal.aborted) return;
  } finally {
    signal.removeEventListener('abort', turnOff);
  }
  log(
    `the guest did not shut down within ${shutDownTimeoutMs / 1000} s, or not by itself, and was turned ` +
      'off: its file systems may need their journal',
  );
}

function untilAborted(signal: AbortSignal): { promise: Promise<never>; forget: () => void } {
  let stop: (reason: unknown) => void = () => {};
  const promise = new Promise<never>((_resolve, reject) => {
    stop = reject;
  });
  promise.catch(() => {}); // raced
  const onAbort = () => stop(signal.reason);
  signal.addEventListener('abort', onAbort, { once: true });
  if (signal.aborted) onAbort();
  return { promise, forget: () => signal.removeEventListener('abort', onAbort) };
}

function panicWords({ console }: VirtualMachine): string {
  const last = console.lastLines().replaceAll(/^/gm, '  ');
  return `the guest's kernel panicked: ${console.panic}. The console's last lines:\n${last}`;
}
