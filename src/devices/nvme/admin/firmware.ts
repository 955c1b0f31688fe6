import { readFileSync } from 'node:fs';

const manifest: unknown = JSON.parse(
  readFileSync(new URL('../../../../package.json', import.meta.url), 'utf8'),
);

/** The package's version: what Identify and the firmware slot log call the firmware's revision. */
export const FIRMWARE_REVISION = (manifest as { readonly version: string }).version;
