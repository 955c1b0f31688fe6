/**
 * The functions of libcrypto that the `evp` engine calls, by native address. They come from this very
 * process: the node executable exports them, and where Node is linked to a system libcrypto that one
 * is loaded already and found the same way.
 *
 * EVP_EncryptInit(3), EVP_CIPHER_CTX_get_original_iv(3), OPENSSL_malloc(3).
 * @module
 */
import koffi from 'koffi';
import { MADV_DONTDUMP, madvise, mlock, PAGE_SIZE } from '../ffi/libc.ts';

export interface Libcrypto {
  readonly version: string;
  cipherFetch(library: number, name: string, properties: number): number;
  cipherFree(cipher: number): void;
  contextNew(): number;
  /** Frees and cleanses: the key schedule is zeroed. */
  contextFree(context: number): void;
  cipherInit(
    context: number,
    cipher: number,
    engine: number,
    key: number,
    iv: number,
    encrypt: number,
  ): number;
  setPadding(context: number, pad: number): number;
  /** EVP_Cipher: bytes done, or -1. One call, without the checks and the out-length of EVP_CipherUpdate. */
  cipher(context: number, into: number, from: number, bytes: number): number;
  /** EVP_CIPHER_CTX_iv_noconst, where this libcrypto has it: the address of the IV that the next call uses. */
  readonly liveIv: ((context: number) => number) | undefined;
  zalloc(bytes: number): number;
  clearFree(address: number, bytes: number): void;
  cleanse(address: number, bytes: number): void;
  /** 0 where equal, in constant time. */
  compare(a: number, b: number, bytes: number): number;
  copy(into: number, from: number, bytes: number): void;
  /**
   * Keeps the pages of a range out of swap and core dumps: mlock(2), madvise(2) MADV_DONTDUMP. False
   * where the kernel refuses (RLIMIT_MEMLOCK).
   */
  lock(address: number, bytes: number): boolean;
  errorText(): string;
}

let loaded: Libcrypto | undefined;

/** @throws Error where the process has no libcrypto of OpenSSL 3. */
export function libcrypto(): Libcrypto {
  loaded ??= load();
  return loaded;
}

function load(): Libcrypto {
  const library = koffi.load(null);
  const address = 'uintptr_t';
  const bind = <F>(name: string, result: string, parameters: string[]): F => {
    try {
      return library.func(name, result, parameters) as F;
    } catch (cause) {
      throw new Error(
        `expected this node (${process.execPath}, OpenSSL ${process.versions.openssl}) to export ${name}; ` +
          'use a node with OpenSSL 3, or the node or noble engine',
        { cause },
      );
    }
  };
  const zallocAt = bind<(bytes: number, file: number, line: number) => number>(
    'CRYPTO_zalloc',
    address,
    ['size_t', address, 'int'],
  );
  const clearFreeAt = bind<(at: number, bytes: number, file: number, line: number) => void>(
    'CRYPTO_clear_free',
    'void',
    [address, 'size_t', address, 'int'],
  );
  const errorCode = bind<() => number>('ERR_get_error', 'ulong', []);
  const errorString = bind<(code: number, text: number) => string | null>(
    'ERR_error_string',
    'str',
    ['ulong', address],
  );
  let liveIv: ((context: number) => number) | undefined;
  try {
    liveIv = library.func('EVP_CIPHER_CTX_iv_noconst', address, [address]);
  } catch {
    liveIv = undefined; // A libcrypto built without the functions deprecated in 3.0.
  }
  return {
    version: process.versions.openssl ?? 'unknown',
    cipherFetch: bind('EVP_CIPHER_fetch', address, [address, 'str', address]),
    cipherFree: bind('EVP_CIPHER_free', 'void', [address]),
    contextNew: bind('EVP_CIPHER_CTX_new', address, []),
    contextFree: bind('EVP_CIPHER_CTX_free', 'void', [address]),
    cipherInit: bind('EVP_CipherInit_ex', 'int', [
      address,
      address,
      address,
      address,
      address,
      'int',
    ]),
    setPadding: bind('EVP_CIPHER_CTX_set_padding', 'int', [address, 'int']),
    cipher: bind('EVP_Cipher', 'int', [address, address, address, 'int']),
    liveIv,
    zalloc: (bytes) => zallocAt(bytes, 0, 0),
    clearFree: (at, bytes) => clearFreeAt(at, bytes, 0, 0),
    cleanse: bind('OPENSSL_cleanse', 'void', [address, 'size_t']),
    compare: bind('CRYPTO_memcmp', 'int', [address, address, 'size_t']),
    copy: bind('memcpy', 'void', [address, address, 'size_t']),
    lock: locked,
    errorText: () => {
      const code = errorCode();
      return code === 0 ? 'no reason given' : (errorString(code, 0) ?? `error ${code}`);
    },
  };
}

function locked(address: number, bytes: number): boolean {
  const begin = address - (address % PAGE_SIZE);
  const size = Math.ceil((address + bytes - begin) / PAGE_SIZE) * PAGE_SIZE;
  try {
    mlock(begin, size);
    madvise(begin, size, MADV_DONTDUMP);
    return true;
  } catch {
    return false;
  }
}
