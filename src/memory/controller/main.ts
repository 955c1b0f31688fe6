/**
 * The controller's process: started by memory-controller.ts with an IPC channel, a mount directory
 * and an engine. It holds no descriptor and no mapping of a file on its own mount: its pages would
 * have to be served by the very process that waits for them, and no signal could end that.
 *
 * It ends when it is told to, or when the channel closes because whoever started it died; and it
 * ignores the terminal's Ctrl-C, because the guest has to go before its memory does.
 */
import { rmdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { protectProcess } from '../../keys/protect-process.ts';
import { DESCRIPTOR_CHANNEL_FD, DescriptorReceiver } from '../descriptor-channel.ts';
import { type FuseMount, liftWriteBackLimits, mountFuse, unmountFuse } from '../fuse/fuse-mount.ts';
import { Controller } from './controller.ts';
import type { ControllerCall, ControllerMessage } from './messages.ts';

/** After the starter died: how long its QEMU gets to die as well before its memory goes. */
const ORPHAN_GRACE_MS = 500;

const [directory, engine] = process.argv.slice(2);
if (directory === undefined || (engine !== 'evp' && engine !== 'node') || !process.send) {
  process.stderr.write('expected to be started by sealbus: this is its memory controller\n');
  process.exit(2);
}

process.title = 'sealbus-memory';
process.on('SIGINT', () => {});
process.on('SIGHUP', () => {});
protectProcess();

let mounted: FuseMount;
try {
  mounted = await mountFuse(directory);
} catch (error) {
  tell({ kind: 'unavailable', message: words(error) });
  process.exit(1);
}

const descriptors = new DescriptorReceiver(DESCRIPTOR_CHANNEL_FD);
const controller = new Controller(mounted, engine, descriptors, {
  end: (error) => end(error === undefined ? 0 : 1, error),
  failure: (error) => tell({ kind: 'failure', message: words(error) }),
  rotation: (progress, slot) => tell({ kind: 'rotation', progress, slot }),
});

process.on('message', ({ id, request }: ControllerCall) => {
  try {
    tell({ kind: 'answer', id, value: controller.handle(request) });
  } catch (error) {
    tell({ kind: 'refusal', id, message: words(error) });
  }
  if (request.op === 'stop') end(0);
});
process.on('SIGTERM', () => end(143));
process.on('disconnect', orphaned);
// The starter may have died while this was mounting, before anything listened.
if (!process.connected) void orphaned();

tell({
  kind: 'ready',
  mountedBy: mounted.by,
  writeBackLimitsLifted: liftWriteBackLimits(directory),
});

function tell(message: ControllerMessage): void {
  // The other side may be gone already; the disconnect says so.
  if (process.connected) process.send?.(message, undefined, undefined, () => {});
}

function words(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

async function orphaned(): Promise<void> {
  await sleep(ORPHAN_GRACE_MS);
  end(0);
}

let ending = false;
function end(code: number, error?: Error): void {
  if (ending) return;
  ending = true;
  if (error !== undefined) tell({ kind: 'failure', message: words(error) });
  controller.close();
  try {
    unmountFuse(mounted);
    rmdirSync(mounted.directory);
  } catch (failure) {
    tell({ kind: 'failure', message: words(failure) });
  }
  // Let what was told get out before the channel closes.
  setImmediate(() => process.exit(code));
}
