import { EvpXts } from './evp-xts.ts';
import { NobleXts } from './noble-xts.ts';
import { NodeXts } from './node-xts.ts';
import { type NativeKey, PAGE_BYTES, type XtsCipher, type XtsEngineName } from './xts-cipher.ts';

/**
 * Opens a key with an engine; the caller closes the cipher. The key is read while this runs and may be
 * moved or wiped afterwards.
 * @throws RangeError for a malformed key, WeakKeyError for equal halves, XtsError, or Error where the
 *   engine cannot run here.
 */
export function openXts(
  key: NativeKey,
  engine: XtsEngineName = 'evp',
  unitBytes: number = PAGE_BYTES,
): XtsCipher {
  switch (engine) {
    case 'evp':
      return new EvpXts(key, { unitBytes });
    case 'node':
      return new NodeXts(key, unitBytes);
    case 'noble':
      return new NobleXts(key, unitBytes);
  }
}
