import { ensureParts } from '../../../src/setup/ensure-parts.ts';

/** libvfio-user's shared object: of the environment where set, else of the set-up. */
export async function foundLibrary(): Promise<string> {
  return process.env.SEALBUS_LIBVFIO_USER ?? (await ensureParts()).libvfioUser.library;
}

/** Its unpacked source. */
export async function foundSource(): Promise<string> {
  return process.env.SEALBUS_LIBVFIO_USER_SOURCE ?? (await ensureParts()).libvfioUser.source;
}
