/** SIGKILL of the whole process while a guest writes: what fsync had answered is in the backing file. */
import { closeSync, ftruncateSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type DebianImageForTests,
  debianImageForTests,
} from '../../../src/testkit/debian-image.ts';
import { type Running, RunPlace, repository, until } from '../../protocol/cli/sealbus.ts';
import { checkRootFileSystem } from '../root-file-system.ts';
import { bytesOf } from './debian-guest.ts';

const BLOCK_BYTES = 4096;
const MIB = 2 ** 20;
const DISK_BYTES = 64 * MIB;
/** Each writer has blocks of its own, and begins anew behind the last. */
const WRITERS = 3;
const BLOCKS = 1024;
const GONE_WITHIN_MS = 30_000;
const runTimeoutMs = 600_000;

/** Writer `w` puts its number n into each 8 bytes of block `w * BLOCKS + n % BLOCKS`. */
const contentOf = (writer: number, n: number) => {
  const bytes = Buffer.alloc(BLOCK_BYTES);
  for (let at = 0; at < BLOCK_BYTES; at += 8) bytes.write(`${writer}.${n}`.padEnd(8, '\n'), at);
  return bytes;
};
const offsetOf = (writer: number, n: number) => (writer * BLOCKS + (n % BLOCKS)) * BLOCK_BYTES;

let place: RunPlace;
beforeAll(() => {
  place = new RunPlace();
});
afterAll(() => place[Symbol.dispose]());

function makeDisk(name: string): string {
  const path = join(place.path, name);
  const fd = openSync(path, 'wx');
  ftruncateSync(fd, DISK_BYTES);
  closeSync(fd);
  return path;
}

/** Whole lines `WRITER N` that have come from the guest: fsync had answered before each was written. */
function acknowledged(running: Running): (count: number) => Promise<void> {
  let lines = 0;
  running.child.stdout?.on('data', (chunk: Buffer) => {
    for (const byte of chunk) if (byte === 10) lines++;
  });
  let over = false;
  running.ended.then(() => {
    over = true;
  });
  return (count) => until(() => over || lines >= count, runTimeoutMs, `${count} blocks`);
}

/** @returns what was said to have been written: of each writer of blocks the last, and of files */
async function kill(running: Running): Promise<{ last: Map<number, number>; files: number }> {
  running.child.kill('SIGKILL');
  const { signal, stdout, stderr } = await running.ended;
  expect(signal, stderr).toBe('SIGKILL');
  const gone = () => place.processes.length === 0 && place.mounts.length === 0;
  await until(gone, GONE_WITHIN_MS, 'no process and no mount of the run');
  const said = stdout.toString();
  const last = new Map<number, number>();
  for (const [, writer, n] of said.matchAll(/^(\d) (\d+)\n/gm)) {
    const before = last.get(Number(writer)) ?? 0;
    expect(Number(n)).toBe(before + 1);
    last.set(Number(writer), Number(n));
  }
  const files = [...said.matchAll(/^file (\d+)\n/gm)].length;
  return { last, files };
}

/** Of each writer: all that it was told of, but what it has itself written over since. */
function expectWritten(path: string, last: ReadonlyMap<number, number>): void {
  const lost: string[] = [];
  for (const [writer, end] of last) {
    for (let n = Math.max(1, end - BLOCKS + 2); n <= end; n++) {
      const found = bytesOf(path, offsetOf(writer, n), BLOCK_BYTES);
      if (!found.equals(contentOf(writer, n))) {
        lost.push(`block ${n} of writer ${writer}: ${found.toString('latin1', 0, 16)}`);
      }
    }
  }
  expect(lost).toEqual([]);
}

describe('the process that runs the VM is killed', () => {
  const device = join(repository, 'test/guest/nvme/disk-device.ts');

  it.each([1, 20, 75, 150])(
    'when %i blocks were answered: each of them is in the file',
    async (count) => {
      const path = makeDisk(`answered-${count}.img`);
      // busybox: printf fills a block of lines, dd writes it and calls fsync.
      const script = `
        i=0; while [ ! -b /dev/nvme0n1 ] && [ $i -lt 600 ]; do usleep 100000; i=$((i+1)); done
        writer() {
          n=0
          while :; do
            n=$((n+1)); line=$(printf '%-8s' $1.$n | tr ' ' '|')
            i=0; text=$line; while [ $i -lt 9 ]; do text=$text$text; i=$((i+1)); done
            printf %s $text | tr '|' '\\n' > /tmp/$1
            dd if=/tmp/$1 of=/dev/nvme0n1 bs=${BLOCK_BYTES} seek=$(($1*${BLOCKS}+n%${BLOCKS})) conv=fsync,notrunc 2>/dev/null || exit 1
            echo $1 $n
          done
        }
        for w in ${Array.from({ length: WRITERS }, (_, w) => w).join(' ')}; do writer $w & done; wait`;
      const running = place.start(
        ['run', '--iommu', 'virtio', '--device', `${device}#Disk`, '--', 'sh', '-c', script],
        { timeoutMs: runTimeoutMs, env: { SEALBUS_TEST_DISK: path } },
      );
      await acknowledged(running)(count);
      const { last } = await kill(running);
      let answered = 0;
      for (const n of last.values()) answered += n;
      expect(answered).toBeGreaterThanOrEqual(count);
      expectWritten(path, last);
    },
    runTimeoutMs,
  );
});

describe('of a Debian that fio writes in too', () => {
  let image: DebianImageForTests;
  beforeAll(async () => {
    image = await debianImageForTests();
  }, runTimeoutMs);
  afterAll(async () => {
    await image?.[Symbol.asyncDispose]();
  });

  it(
    'each block is in the file, and the system boots again from what is left',
    async () => {
      const path = makeDisk('debian.img');
      const fio = [
        ...['--name=beside', '--rw=randwrite', '--bs=4k', '--fsync=1', '--numjobs=2'],
        ...['--offset=32m', '--size=8m', '--offset_increment=8m', '--time_based', '--runtime=3600'],
      ];
      const writer = String.raw`
        use IO::Handle; $| = 1;
        open(my $disk, '+<:raw', $ARGV[0]) or die;
        for (my $n = 1; ; $n++) {
          my $bytes = sprintf("%s\n\n\n\n\n\n\n\n", "0.$n"); $bytes = substr($bytes, 0, 8) x 512;
          sysseek($disk, ($n % ${BLOCKS}) * 4096, 0);
          syswrite($disk, $bytes) == 4096 or die; $disk->sync or die; print "0 $n\n";
        }`;
      // On the root file system too, so that its journal has something to do: `file N` once it is there.
      const script = `
        for at in /sys/block/nvme*; do [ "$(cat $at/nsid)" = 2 ] && disk=/dev/$(basename $at); done
        fio ${fio.join(' ')} --filename=$disk --output=/root/fio.log &
        while :; do n=$((n+1)); echo $n > /root/file-$n; sync /root/file-$n || exit; echo file $n; done &
        exec perl -e "$WRITER" $disk`;
      const disks = ['--disk', image.file, '--disk', path];
      const running = place.start(
        ['run', ...disks, '--', 'env', `WRITER=${writer}`, 'bash', '-c', script],
        { timeoutMs: runTimeoutMs },
      );
      await acknowledged(running)(80);
      const { last, files } = await kill(running);
      expect([last.get(0) ?? 0, files].map(Math.sign)).toEqual([1, 1]);
      expectWritten(path, last);

      const check = `
        for n in $(seq ${files}); do [ "$(cat /root/file-$n)" = $n ] || echo "file $n is lost"; done
        systemctl is-system-running --wait`;
      const { code, stdout, stderr } = await place.run(
        ['run', '--disk', image.file, '--', 'sh', '-c', check],
        { timeoutMs: runTimeoutMs },
      );
      expect([code, `${stdout}`], stderr).toEqual([0, 'running\n']);
      checkRootFileSystem(image.file);
      expect(place.left).toEqual([]);
    },
    3 * runTimeoutMs,
  );
});
