/** A disk for `sealbus run --device`: the file that SEALBUS_TEST_DISK names, as a controller's namespace. */
import { Nvme } from '../../../src/devices/nvme/nvme.ts';
import { openStorage } from '../../../src/storage/open-storage.ts';

const path = process.env.SEALBUS_TEST_DISK;
if (path === undefined) throw new Error('expected a file in SEALBUS_TEST_DISK, got none');
const storage = await openStorage(path, { readOnly: false, log: () => {} });

export class Disk extends Nvme {
  constructor() {
    super({ namespaces: [{ storage }] });
  }
}
