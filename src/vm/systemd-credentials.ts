/**
 * systemd's credentials, handed to a guest by its machine (systemd.system-credentials(7)): a file as an
 * item of QEMU's firmware configuration, text as an OEM string of the SMBIOS (type 11). Nothing on
 * the guest's disk is changed.
 */
import { statSync } from 'node:fs';
import { VmError } from './vm-error.ts';

export type SystemdCredential =
  | { readonly name: string; readonly file: string }
  | { readonly name: string; readonly text: string };

const itemFolder = 'opt/io.systemd.credentials/';
/** QEMU's FW_CFG_MAX_FILE_PATH is 56, with the NUL. */
const itemNameMax = 55;
/** Of all together: the size of the file system that systemd keeps them in. */
const bytesMax = 2 ** 20;
const namePattern = /^[A-Za-z0-9._@~-]{1,255}$/;

/** Arguments to QEMU. @throws VmError where systemd or QEMU would not take them */
export function credentialArguments(credentials: readonly SystemdCredential[]): string[] {
  let bytes = 0;
  const args = credentials.flatMap((credential) => {
    const { name } = credential;
    if (!namePattern.test(name)) {
      throw new VmError(`expected the name of a systemd credential, got '${name}'`);
    }
    if ('file' in credential) {
      bytes += statSync(credential.file).size;
      const item = itemFolder + name;
      if (item.length > itemNameMax) {
        throw new VmError(
          `expected a name of at most ${itemNameMax - itemFolder.length} characters for a ` +
            `credential from a file, got '${name}'`,
        );
      }
      return ['-fw_cfg', `name=${item},file=${credential.file.replaceAll(',', ',,')}`];
    }
    const value = Buffer.from(credential.text);
    bytes += value.length;
    const text = `io.systemd.credential.binary:${name}=${value.toString('base64')}`;
    return ['-smbios', `type=11,value=${text}`];
  });
  if (bytes > bytesMax) {
    throw new VmError(`expected credentials of at most ${bytesMax} bytes in all, got ${bytes}`);
  }
  return args;
}
