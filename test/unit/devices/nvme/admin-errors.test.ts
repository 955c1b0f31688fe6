/** Admin commands that fail: More, and the Error Information log (NVMe 1.4 §4.6.1, §5.14.1.1). */
import { expect, it } from 'vitest';
import { Status } from '../../../../src/devices/nvme/status.ts';
import { HostDriver, PAGE } from './host-driver.ts';
import { MemoryStorage } from './memory-storage.ts';

const GET_LOG_PAGE = 2;
const IDENTIFY = 6;
const FORMAT_NVM = 0x80;
const ERROR_ENTRY_BYTES = 64;

it('puts an admin command that fails into the error log, which its completion says', async () => {
  const storage = new MemoryStorage(64 * 512);
  const driver = new HostDriver({ namespaces: [{ storage }] });
  driver.enable();
  const page = driver.pages(1);
  const fine = await driver.admin({ opcode: IDENTIFY, prp1: page, dwords: [1] });
  expect([fine.status, fine.more]).toEqual([Status.success, false]);

  const unknown = await driver.admin({ opcode: 0x7f, nsid: 0 });
  const absent = await driver.admin({ opcode: IDENTIFY, nsid: 9, prp1: page, dwords: [0] });
  const format = await driver.admin({ opcode: FORMAT_NVM, nsid: 1, dwords: [15] });
  expect([unknown, absent, format]).toMatchObject([
    { status: Status.invalidOpcode, more: true, doNotRetry: true },
    { status: Status.invalidNamespaceOrFormat, more: true, doNotRetry: true },
    { status: Status.invalidFormat, more: true, doNotRetry: true },
  ]);

  const words = PAGE / 4 - 1;
  const log = await driver.admin({
    ...{ opcode: GET_LOG_PAGE, nsid: 0xffff_ffff, prp1: page },
    dwords: [(words << 16) | 1],
  });
  expect(log.status).toBe(Status.success);
  const entries = [format, absent, unknown].map((_, n) => {
    const at = page + n * ERROR_ENTRY_BYTES;
    return {
      count: driver.view.getBigUint64(at, true),
      sqid: driver.view.getUint16(at + 8, true),
      cid: driver.view.getUint16(at + 10, true),
      status: driver.view.getUint16(at + 12, true) >>> 1,
      nsid: driver.view.getUint32(at + 24, true),
    };
  });
  expect(entries).toEqual([
    { count: 3n, sqid: 0, cid: format.cid, status: Status.invalidFormat, nsid: 1 },
    { count: 2n, sqid: 0, cid: absent.cid, status: Status.invalidNamespaceOrFormat, nsid: 9 },
    { count: 1n, sqid: 0, cid: unknown.cid, status: Status.invalidOpcode, nsid: 0 },
  ]);
});
