import { openSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { close } from '../../../src/ffi/libc.ts';
import { keySlot } from '../../../src/keys/key-slot.ts';
import { detachStaleMount } from '../../../src/memory/fuse/fuse-mount.ts';
import { gpa } from '../../../src/memory/guest-memory.ts';
import { VfioUserClient } from '../../../src/vfio-user/client/client.ts';
import { noSealedRam, sealedBench } from '../memory/sealed-bench.ts';
import { bench } from './bench-device.ts';

const MIB = 1024 * 1024;

test.skipIf(noSealedRam() !== undefined)(
  'a map of a file whose file system has died is refused, and the client stays connected',
  async () => {
    const dead = await sealedBench(MIB);
    // A direct write has the kernel forget what it knew of the file: the next fstat has to ask.
    dead.memory.write(gpa(0), keySlot(1), new Uint8Array(1));
    const file = openSync(dead.ram.path, 'r+');
    using served = await bench();
    const client = await VfioUserClient.connect(served.path);
    try {
      process.kill(dead.controller.pid, 'SIGKILL');
      for (let i = 0; i < 100 && dead.lost.length === 0; i++) await sleep(20);
      await expect(
        client.mapDma({ gpa: 0, size: MIB, file: { descriptor: file, offset: 0 } }),
      ).rejects.toThrow(/EINVAL/);
      expect(served.mapped).toEqual([]);
      expect(served.logged.join()).toContain('its file does not answer');
      expect(served.server.connected).toBe(true);
    } finally {
      client.close();
      close(file);
      dead.ram.close();
      detachStaleMount(dead.controller.directory);
      await dead[Symbol.asyncDispose]();
    }
  },
);
