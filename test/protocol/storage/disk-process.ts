/**
 * A process with a disk open: `disk-process.ts PATH ENGINE MODE [LIMIT]`. Tells its parent when it has it.
 * MODE: `hold` keeps it; `durable` and `flush` write blocks, each full of its own number, until killed,
 * and tell on standard output which are safe, one line each, after `done`; `limit` may not write behind
 * LIMIT bytes, and tells what became of one write there; `forbidden` has no io_uring; `refused` loses it
 * when it has the disk, and tells what became of one write.
 */
import { readdirSync, readlinkSync, writeSync } from 'node:fs';
import { addressOfBytes, declared, prctl } from '../../../src/ffi/libc.ts';
import { openStorage, type StorageOptions } from '../../../src/storage/open-storage.ts';
import { StorageBufferPool } from '../../../src/storage/storage-buffers.ts';

const [path = '', engine, mode, limit = '0'] = process.argv.slice(2);
const BLOCK = 4096;
const DEPTH = 32;
const RLIMIT_FSIZE = 1;
const PR_SET_NO_NEW_PRIVS = 38;
const PR_SET_SECCOMP = 22;
const SECCOMP_MODE_FILTER = 2;

const IO_URING_SETUP = 425;
const IO_URING_ENTER = 426;

if (mode === 'forbidden') forbid(IO_URING_SETUP);
if (mode === 'limit') limitFiles(Number(limit));

const before = new Set(rings());
const told: string[] = [];
const storage = await openStorage(path, {
  readOnly: false,
  log: (message) => told.push(message),
  ...(engine === 'any' ? {} : { engine: engine as NonNullable<StorageOptions['engine']> }),
});
const pool = new StorageBufferPool(4 << 20);
process.send?.({ open: true, told });

if (mode === 'refused') {
  forbid(
    IO_URING_ENTER,
    rings().find((fd) => !before.has(fd)),
  );
}

if (mode === 'hold' || mode === 'forbidden') setInterval(() => {}, 1000);
else if (mode === 'limit' || mode === 'refused') tellOfWrite();
else for (let place = 0; place < DEPTH; place++) writeOn(place, 1);
storage.kick();

/** Writes number after number to block `place`; a line `place number` says that it is safe. */
function writeOn(place: number, number: number): void {
  const bytes = pool.take(BLOCK) as Uint8Array;
  new Uint32Array(bytes.buffer, bytes.byteOffset, BLOCK / 4).fill(number);
  const safe = () => {
    writeSync(1, `${place} ${number}\n`);
    pool.give(bytes);
    writeOn(place, number + 1);
    storage.kick();
  };
  const range = { offset: place * BLOCK, length: BLOCK, bytes };
  storage.submit({
    kind: 'write',
    durable: mode === 'durable',
    ...range,
    done: (error) => {
      if (error !== undefined) throw error;
      if (mode === 'durable') return safe();
      storage.submit({
        ...{ kind: 'flush', offset: 0, length: 0, bytes: undefined, durable: false },
        done: (failed) => {
          if (failed !== undefined) throw failed;
          safe();
        },
      });
      storage.kick();
    },
  });
}

function tellOfWrite(): void {
  const bytes = pool.take(BLOCK) as Uint8Array;
  storage.submit({
    ...{ kind: 'write', offset: Number(limit), length: BLOCK, bytes, durable: false },
    done: (error) => {
      process.send?.({ errno: error?.errno, message: error?.message });
      storage.close().catch((failed) => process.send?.({ closing: failed.message }));
    },
  });
}

function limitFiles(bytes: number): void {
  const limits = new Uint8Array(new ArrayBuffer(128));
  new BigUint64Array(limits.buffer).fill(BigInt(bytes), 0, 2);
  // Else the kernel's SIGXFSZ would end us before the errno comes.
  process.on('SIGXFSZ', () => {});
  declared('int setrlimit(int resource, const void *limits)')()(RLIMIT_FSIZE, limits);
}

/** Descriptors of this process that are rings; libuv has one of its own, and cannot do without it. */
function rings(): number[] {
  return readdirSync('/proc/self/fd')
    .map(Number)
    .filter((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`).includes('io_uring');
      } catch {
        return false;
      }
    });
}

/** seccomp(2), as containers have it: one call is EPERM (with this descriptor, where named), all else allowed. */
function forbid(call: number, fd?: number): void {
  // struct sock_filter {u16 code; u8 jt, jf; u32 k} on struct seccomp_data {nr at 0, arguments from 16}.
  const [LOAD, EQUAL, RETURN] = [0x20, 0x15, 0x06];
  const program: (readonly [number, number, number, number])[] = [[LOAD, 0, 0, 0]];
  if (fd === undefined) program.push([EQUAL, 0, 1, call]);
  else program.push([EQUAL, 0, 3, call], [LOAD, 0, 0, 16], [EQUAL, 0, 1, fd]);
  program.push([RETURN, 0, 0, 0x0005_0001], [RETURN, 0, 0, 0x7fff_0000]);
  const filter = new DataView(new ArrayBuffer(128));
  for (const [index, [code, jumpTrue, jumpFalse, k]] of program.entries()) {
    filter.setUint16(index * 8, code, true);
    filter.setUint8(index * 8 + 2, jumpTrue);
    filter.setUint8(index * 8 + 3, jumpFalse);
    filter.setUint32(index * 8 + 4, k, true);
  }
  const fprog = new DataView(new ArrayBuffer(128));
  fprog.setUint16(0, program.length, true);
  fprog.setBigUint64(8, BigInt(addressOfBytes(new Uint8Array(filter.buffer))), true);
  prctl(PR_SET_NO_NEW_PRIVS, 1);
  prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, addressOfBytes(new Uint8Array(fprog.buffer)));
}
