import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { doorbellsFor, Nvme, openStorage } from '../../src/index.ts';
import { HostDriver } from './devices/nvme/host-driver.ts';

it('gives a program what it needs to plug a disk', async () => {
  using stack = new DisposableStack();
  const place = mkdtempSync(join(tmpdir(), 'sealbus-library-'));
  stack.defer(() => rmSync(place, { recursive: true }));
  const path = join(place, 'disk.img');
  writeFileSync(path, Buffer.alloc(2 ** 20, 0x5a));
  const storage = await openStorage(path, { readOnly: true, log: () => {} });
  try {
    const disk = new Nvme({ namespaces: [{ storage }], doorbells: doorbellsFor('sealed') });
    const driver = new HostDriver(disk);
    driver.enable();
    await driver.createQueues(1);
    const page = driver.pages(1);
    expect((await driver.run(1, { opcode: 2, nsid: 1, prp1: page })).status).toBe(0);
    expect(driver.memory[page + 511]).toBe(0x5a);
    disk.reset('device');
  } finally {
    await storage.close();
  }
});
