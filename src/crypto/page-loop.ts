/**
 * One FFI call for any number of pages.
 *
 * A call through koffi with four arguments costs some 40 ns, and EVP_Cipher takes one for each page of
 * some 330 ns. The loop over the pages is therefore 87 bytes of x86-64 code in memory that is written
 * first and executable afterwards, never both (Node's own compiler works in such memory, so it is
 * there wherever Node runs). It calls what it is told to and does no cryptography itself:
 *
 *     for (left = job.bytes; left; left -= size) {
 *       size = min(left, job.unitBytes)
 *       *job.iv = job.unit                                   the low half of the tweak
 *       if (job.call(job.context, job.into, job.from, size) != size) break
 *       job.into += size, job.from += size, job.unit += 1
 *     }
 *     return left                                            0 where all was done
 *
 * Where memory cannot be made executable there is no loop, and the engine makes a call for each page.
 * @module
 */
import koffi from 'koffi';
import {
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  mmap,
  mprotect,
  munmap,
  PAGE_SIZE,
  PROT_READ,
  PROT_WRITE,
  viewOfAddress,
} from '../ffi/libc.ts';

/** Fields of a job: eight 64-bit words, as offsets in 32-bit words. */
export const JOB = {
  context: 0,
  into: 2,
  from: 4,
  bytes: 6,
  unit: 8,
  iv: 10,
  call: 12,
  unitBytes: 14,
} as const;
export const JOB_BYTES = 64;

export interface PageLoop {
  /** The address of EVP_Cipher, for `call` of a job. */
  readonly call: number;
  /** Works through the job at an address; the bytes that were left undone, 0 for none. */
  run(job: number): number;
}

/** System V AMD64 ABI; rbx = job, r12 = left, r13 = size. */
const CODE = Uint8Array.from([
  ...[0x53], //                   push rbx
  ...[0x41, 0x54], //             push r12
  ...[0x41, 0x55], //             push r13          the stack is aligned to 16 again
  ...[0x48, 0x89, 0xfb], //       mov  rbx, rdi
  ...[0x4c, 0x8b, 0x63, 0x18], // mov  r12, [rbx + bytes]
  ...[0x4c, 0x8b, 0x6b, 0x38], // mov  r13, [rbx + unitBytes]
  ...[0x4d, 0x85, 0xe4], // next: test r12, r12
  ...[0x74, 0x39], //             je   done
  ...[0x4d, 0x39, 0xe5], //       cmp  r13, r12
  ...[0x4d, 0x0f, 0x47, 0xec], // cmova r13, r12
  ...[0x48, 0x8b, 0x43, 0x20], // mov  rax, [rbx + unit]
  ...[0x48, 0x8b, 0x4b, 0x28], // mov  rcx, [rbx + iv]
  ...[0x48, 0x89, 0x01], //       mov  [rcx], rax
  ...[0x48, 0x8b, 0x3b], //       mov  rdi, [rbx + context]
  ...[0x48, 0x8b, 0x73, 0x08], // mov  rsi, [rbx + into]
  ...[0x48, 0x8b, 0x53, 0x10], // mov  rdx, [rbx + from]
  ...[0x44, 0x89, 0xe9], //       mov  ecx, r13d
  ...[0xff, 0x53, 0x30], //       call [rbx + call]
  ...[0x44, 0x39, 0xe8], //       cmp  eax, r13d
  ...[0x75, 0x11], //             jne  done
  ...[0x4c, 0x01, 0x6b, 0x08], // add  [rbx + into], r13
  ...[0x4c, 0x01, 0x6b, 0x10], // add  [rbx + from], r13
  ...[0x48, 0xff, 0x43, 0x20], // inc  qword [rbx + unit]
  ...[0x4d, 0x29, 0xec], //       sub  r12, r13
  ...[0xeb, 0xc2], //             jmp  next
  ...[0x4c, 0x89, 0xe0], // done: mov  rax, r12
  ...[0x41, 0x5d], //             pop  r13
  ...[0x41, 0x5c], //             pop  r12
  ...[0x5b], //                   pop  rbx
  ...[0xc3], //                   ret
]);

const CODE_BYTES = PAGE_SIZE;
const PROT_EXEC = 4;

let loaded: PageLoop | undefined;
let tried = false;

/** The loop of this thread, or undefined where code cannot be had (not x86-64, hardened kernel). */
export function pageLoop(): PageLoop | undefined {
  if (!tried) {
    tried = true;
    loaded = process.arch === 'x64' && process.platform === 'linux' ? load() : undefined;
  }
  return loaded;
}

function load(): PageLoop | undefined {
  const at = 'uintptr_t';
  const dlsym: (handle: number, name: string) => number = koffi
    .load(null)
    .func('dlsym', at, [at, 'str']);
  const call = dlsym(0, 'EVP_Cipher');
  const code = call === 0 ? undefined : mapCode();
  if (code === undefined) return undefined;
  return { call, run: koffi.decode(BigInt(code), koffi.proto('int64_t', [at])) };
}

/** @returns the address of the code, or undefined where memory cannot be made executable. */
function mapCode(): number | undefined {
  let code: number | undefined;
  try {
    code = mmap(0, CODE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
    viewOfAddress(code, CODE.length).set(CODE);
    mprotect(code, CODE_BYTES, PROT_READ | PROT_EXEC);
    return code;
  } catch {
    if (code !== undefined) munmap(code, CODE_BYTES);
    return undefined;
  }
}

/** Writes a 64-bit field of a job. Numbers are exact up to 2^53. */
export function setJob(words: Uint32Array, field: number, value: number): void {
  words[field] = value;
  words[field + 1] = value / 0x1_0000_0000;
}
