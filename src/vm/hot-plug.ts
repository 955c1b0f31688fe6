/**
 * Devices that come to a QEMU and go from it while its guest runs, by QMP's device_add and device_del
 * (qapi/qdev.json in QEMU's source). To come takes QEMU alone; to go takes the guest, whose hot-plug driver
 * unbinds the device and ejects it (by ACPI on a q35, docs/pcie.txt).
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { deviceProperties, type GuestDevice } from './qemu-command.ts';
import { type QmpClient, QmpError } from './qmp.ts';
import { VmTimeoutError } from './vm-error.ts';

export interface HotPlugPatience {
  /** For QEMU's greeting: one that runs greets at once. */
  readonly greetingMs: number;
  /** For QEMU's reply to a command. A vfio-user device takes some hundred messages to its server. */
  readonly replyMs: number;
  /** For the guest to let go of a device. Linux takes a fraction of a second by ACPI, and 5 s by its pciehp. */
  readonly removalMs: number;
}

export const hotPlugPatience: HotPlugPatience = {
  greetingMs: 5000,
  replyMs: 30_000,
  removalMs: 30_000,
};

/** A guest that has not looked at its slot yet, or still takes a device in, is asked again. */
const askAgainMs = 6000;
const busyMs = 500;

/**
 * Names of the devices that a QEMU has and that were given one, its root ports among them.
 * @throws QmpError, VmError
 */
export async function namedDevices(
  qmp: QmpClient,
  { replyMs }: Pick<HotPlugPatience, 'replyMs'> = hotPlugPatience,
): Promise<ReadonlySet<string>> {
  const found = await qmp.execute('qom-list', { path: '/machine/peripheral' }, replyMs);
  const entries: readonly unknown[] = Array.isArray(found) ? found : [];
  return new Set(
    entries.flatMap((entry) =>
      typeof entry === 'object' && entry !== null && 'name' in entry ? [String(entry.name)] : [],
    ),
  );
}

/**
 * Gives QEMU a device, whose server listens. When this resolves QEMU is connected to it; the guest finds it later.
 * @throws QmpError where QEMU refuses; VmTimeoutError, and it may have it later; VmError
 */
export async function addDevice(
  qmp: QmpClient,
  device: GuestDevice,
  { replyMs }: Pick<HotPlugPatience, 'replyMs'> = hotPlugPatience,
): Promise<void> {
  await qmp.execute('device_add', deviceProperties(device), replyMs);
}

/**
 * Has the guest let go of a device, and QEMU forget it.
 * @returns undefined once it is gone, or has never been there; else why it is still there. Never rejects: what
 *   cannot be had of a guest must not stop who pulls the device out.
 */
export async function removeDevice(
  qmp: QmpClient,
  id: string,
  { replyMs, removalMs }: Omit<HotPlugPatience, 'greetingMs'> = hotPlugPatience,
): Promise<string | undefined> {
  const deadline = performance.now() + removalMs;
  const left = () => Math.max(1, deadline - performance.now());
  const end = Promise.withResolvers<string | undefined>();
  const off = qmp.onEvent(({ event, data }) => {
    if (data.device !== id) return;
    if (event === 'DEVICE_DELETED') end.resolve(undefined);
    if (event === 'DEVICE_UNPLUG_GUEST_ERROR') end.resolve('the guest refused');
  });
  qmp.gone.then(({ message }) => end.resolve(message));
  const patience = new AbortController();
  const { signal } = patience;
  const asking = (async () => {
    let asked = false;
    let refused = '';
    for (let over = false; !over && !signal.aborted; ) {
      const answer = await ask(qmp, id, Math.min(replyMs, left()));
      if (answer === 'absent') return undefined;
      if (answer === 'asked') asked = true;
      else refused = answer.refused;
      const pause = answer === 'asked' ? askAgainMs : busyMs;
      over = pause >= left();
      // Cut short where another word has come: that is then the answer.
      await sleep(Math.min(pause, left()), undefined, { signal }).catch(() => {});
    }
    const why = asked ? 'the guest did not let go of it' : refused;
    return `within ${removalMs / 1000} s: ${why}`;
  })();
  try {
    return await Promise.race([end.promise, asking]);
  } finally {
    patience.abort();
    off();
  }
}

/** Refused: such as while the guest still takes it in. */
async function ask(
  qmp: QmpClient,
  id: string,
  timeoutMs: number,
): Promise<'asked' | 'absent' | { readonly refused: string }> {
  try {
    await qmp.execute('device_del', { id }, timeoutMs);
    return 'asked';
  } catch (error) {
    if (error instanceof QmpError) {
      return error.kind === 'DeviceNotFound' ? 'absent' : { refused: error.message };
    }
    if (error instanceof VmTimeoutError) return { refused: error.message };
    // The connection has ended, which says so itself.
    return { refused: error instanceof Error ? error.message : String(error) };
  }
}
