import { type EnsureOptions, ensureParts } from './ensure-parts.ts';
import { findLibvfioUser } from './libvfio-user.ts';
import { cacheRoot } from './part-cache.ts';
import type { LibvfioUserPart } from './parts.ts';

let found: LibvfioUserPart | undefined;

/**
 * What serves a device without a guest. Looked for once in a process; where it is missing, everything
 * is set up that is. @throws as {@link ensureParts}
 */
export async function ensureLibvfioUser(options: EnsureOptions = {}): Promise<LibvfioUserPart> {
  found ??= findLibvfioUser(cacheRoot()) ?? (await ensureParts(options)).libvfioUser;
  return found;
}
