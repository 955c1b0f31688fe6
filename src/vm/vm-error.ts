/** A virtual machine that could not be described, started, reached or ended. */
export class VmError extends Error {
  override readonly name: string = 'VmError';
}

/** QEMU ended while it was needed. The message has its last words and its command. */
export class QemuEndedError extends VmError {
  override readonly name = 'QemuEndedError';
}

/** The guest's kernel panicked. The message has the console's last lines. */
export class GuestPanicError extends VmError {
  override readonly name = 'GuestPanicError';
}

/** Something did not come in time. The message names what was waited for, and what came last. */
export class VmTimeoutError extends VmError {
  override readonly name = 'VmTimeoutError';
}
