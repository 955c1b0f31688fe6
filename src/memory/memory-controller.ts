import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { XtsEngineName } from '../crypto/xts-cipher.ts';
import { close } from '../ffi/libc.ts';
import { socketPair } from '../ffi/socket-pair.ts';
import type { KeySlot } from '../keys/key-slot.ts';
import type { SlotDescription } from '../keys/slot-lifecycle.ts';
import type { VmId } from '../keys/vm-id.ts';
import type {
  ControllerAnswers,
  ControllerCall,
  ControllerMessage,
  ControllerRequest,
} from './controller/messages.ts';
import { ControllerKeys } from './controller-keys.ts';
import { DescriptorSender } from './descriptor-channel.ts';
import { FuseUnavailable } from './fuse/fuse-unavailable.ts';
import { MemoryError } from './guest-memory.ts';

const START_TIMEOUT_MS = 15_000;
const STOP_TIMEOUT_MS = 5_000;

export interface MemoryControllerOptions {
  /** Where the RAM files appear; made where it is missing, gone after the stop. */
  readonly directory: string;
  /** `evp` unless told. */
  readonly engine?: Exclude<XtsEngineName, 'noble'>;
  /** Called with each thing that broke there, or on the way there, and that no request asked for. */
  readonly onFailure?: (message: string) => void;
  /** Called once when the controller ends without having been told to: guests are lost with it. */
  readonly onLost?: (error: MemoryError) => void;
}

interface Waiting {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

/** The device's side of the memory controller: starts its process, asks it, stops it. */
export class MemoryController {
  readonly directory: string;
  readonly pid: number;
  readonly mountedBy: string;
  readonly writeBackLimitsLifted: boolean;
  /** The key table of it. */
  readonly keys: ControllerKeys;
  readonly #child: ChildProcess;
  readonly #descriptors: DescriptorSender;
  readonly #waiting = new Map<number, Waiting>();
  readonly #options: MemoryControllerOptions;
  #nextId = 1;
  #stopping = false;

  private constructor(
    child: ChildProcess,
    descriptors: DescriptorSender,
    options: MemoryControllerOptions,
    ready: Extract<ControllerMessage, { kind: 'ready' }>,
  ) {
    this.#child = child;
    this.#descriptors = descriptors;
    this.keys = new ControllerKeys(
      (request, onAnswer) => this.#ask(request, onAnswer),
      (descriptor) => descriptors.send(descriptor),
    );
    this.#options = options;
    this.directory = options.directory;
    this.pid = child.pid ?? 0;
    this.mountedBy = ready.mountedBy;
    this.writeBackLimitsLifted = ready.writeBackLimitsLifted;
    child.on('message', (message: ControllerMessage) => this.#take(message));
    child.once('exit', (code, signal) => this.#lost(signal ?? `status ${code}`));
  }

  /**
   * Starts the process and waits until it serves its directory.
   * @throws FuseUnavailable where FUSE cannot be mounted; MemoryError where the process broke.
   */
  static async start(options: MemoryControllerOptions): Promise<MemoryController> {
    mkdirSync(options.directory, { recursive: true, mode: 0o700 });
    const main = fileURLToPath(new URL('./controller/main.ts', import.meta.url));
    const [ours, theirs] = socketPair();
    const descriptors = new DescriptorSender(ours);
    // A group of its own: the terminal's Ctrl-C is for the device's process, which stops the
    // guest first and the guest's memory after it.
    const child = spawn(process.execPath, [main, options.directory, options.engine ?? 'evp'], {
      // Standard output is for results, and must not stay open because this process does.
      // The last is DESCRIPTOR_CHANNEL_FD.
      stdio: ['ignore', 'ignore', 'inherit', 'ipc', theirs],
      detached: true,
    });
    close(theirs);
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), START_TIMEOUT_MS);
    try {
      const first = await Promise.race([
        once(child, 'message', { signal: abort.signal }).then(
          ([message]) => message as ControllerMessage,
        ),
        once(child, 'exit', { signal: abort.signal }).then(([code, signal]) => {
          throw new MemoryError(
            `expected the memory controller to start, got its end (${signal ?? code})`,
          );
        }),
      ]);
      if (first.kind === 'unavailable') throw new FuseUnavailable(first.message);
      if (first.kind !== 'ready') {
        throw new MemoryError(`expected the memory controller to say ready, got ${first.kind}`);
      }
      return new MemoryController(child, descriptors, options, first);
    } catch (error) {
      child.kill('SIGTERM');
      descriptors.close();
      if (!abort.signal.aborted) throw error;
      throw new MemoryError(
        `expected the memory controller to start within ${START_TIMEOUT_MS} ms, got no word of it`,
      );
    } finally {
      clearTimeout(timer);
      abort.abort();
    }
  }

  /** Whether its process is gone, or was told to go. */
  get ended(): boolean {
    return this.#stopping || this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  /** Makes one VM's RAM file; see SealedRam, which calls this. */
  createMemory(
    options: Omit<Extract<ControllerRequest, { op: 'create-memory' }>, 'op'>,
  ): Promise<ControllerAnswers['create-memory']> {
    return this.#ask({ op: 'create-memory', ...options });
  }

  /** Takes one VM's RAM file away; see SealedRam, which calls this. */
  async removeMemory(name: string): Promise<void> {
    await this.#ask({ op: 'remove-memory', name });
  }

  /** Makes a random key in an empty slot, for one VM, ready for use. */
  async generateKey(slot: KeySlot, vm: VmId, keyBits: 128 | 256 = 256): Promise<SlotDescription> {
    await this.keys.generate(slot, { vm, keyBits });
    return await this.keys.activate(slot);
  }

  counters(name: string): Promise<ControllerAnswers['counters']> {
    return this.#ask({ op: 'counters', name });
  }

  /** Tells whoever started it what does not work as it should on the way to its memory. */
  report(message: string): void {
    this.#options.onFailure?.(message);
  }

  /**
   * Unmounts and ends the process; killed where it does not. Whoever has a RAM file mapped must be
   * gone before: a page it misses then is SIGBUS.
   */
  async stop(): Promise<void> {
    if (this.#stopping) return;
    this.#stopping = true;
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const gone = once(this.#child, 'exit');
    this.#ask({ op: 'stop' }).catch(() => {});
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    await gone;
    clearTimeout(timer);
  }

  /** @param onAnswer called with the answer as it comes, before what came after it */
  #ask<Op extends ControllerRequest['op']>(
    request: Extract<ControllerRequest, { op: Op }>,
    onAnswer?: (answer: ControllerAnswers[Op]) => void,
  ): Promise<ControllerAnswers[Op]> {
    return new Promise((resolve, reject) => {
      if (!this.#child.connected) {
        reject(new MemoryError('expected a memory controller that runs, got one that has ended'));
        return;
      }
      const id = this.#nextId++;
      const answered = (value: unknown) => {
        onAnswer?.(value as ControllerAnswers[Op]);
        resolve(value as ControllerAnswers[Op]);
      };
      this.#waiting.set(id, { resolve: answered, reject });
      const call: ControllerCall = { id, request };
      this.#child.send(call, (error) => {
        if (error === null) return;
        this.#waiting.delete(id);
        reject(new MemoryError(`expected to reach the memory controller, got ${error.message}`));
      });
    });
  }

  #take(message: ControllerMessage): void {
    if (message.kind === 'failure') {
      this.#options.onFailure?.(message.message);
      return;
    }
    if (message.kind === 'rotation') {
      this.keys.take(message);
      return;
    }
    if (message.kind !== 'answer' && message.kind !== 'refusal') return;
    const waiting = this.#waiting.get(message.id);
    this.#waiting.delete(message.id);
    if (message.kind === 'answer') waiting?.resolve(message.value);
    else waiting?.reject(new MemoryError(message.message));
  }

  #lost(how: string): void {
    const error = new MemoryError(
      `expected the memory controller to serve until it is stopped, got its end (${how})`,
    );
    for (const waiting of this.#waiting.values()) waiting.reject(error);
    this.#waiting.clear();
    this.#descriptors.close();
    this.keys.lost();
    if (!this.#stopping) this.#options.onLost?.(error);
  }
}
