import { createHash } from 'node:crypto';

/** The form with a UUID (NVMe 1.4 §7.9), made out of the serial number. */
export function subsystemNqn(serial: string): string {
  const digest = createHash('sha256').update(`sealbus NVMe ${serial}`).digest();
  digest[6] = ((digest[6] ?? 0) & 0x0f) | 0x80;
  digest[8] = ((digest[8] ?? 0) & 0x3f) | 0x80;
  const hex = digest.toString('hex', 0, 16);
  const uuid = hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
  return `nqn.2014-08.org.nvmexpress:uuid:${uuid}`;
}
