/** Nobody else sees this word: only the locked instruction that changes it counts. */
const word = new Int32Array(new SharedArrayBuffer(4));

/**
 * A full memory barrier. Stores made before it are visible to every CPU before any load after it is
 * done. On x86-64 Atomics.add is a LOCK XADD or a LOCK-prefixed add, in the interpreter's builtin
 * as in compiled code, and a locked instruction drains the store buffer (Intel SDM volume 3, 8.2.5).
 * Calls through FFI are opaque to V8, so it moves none of them across.
 */
export function fullFence(): void {
  Atomics.add(word, 0, 1);
}
