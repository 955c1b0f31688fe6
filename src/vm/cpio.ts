/**
 * Writes initramfs archives: the "newc" form of cpio, as the kernel's
 * Documentation/driver-api/early-userspace/buffer-format.rst gives it. Reproducible: no times, no
 * inode numbers of the host, owner always root.
 */

export type ArchiveEntry =
  | { readonly kind: 'directory'; readonly path: string; readonly mode?: number }
  | {
      readonly kind: 'file';
      readonly path: string;
      readonly mode?: number;
      readonly bytes: Uint8Array;
    }
  | { readonly kind: 'symlink'; readonly path: string; readonly target: string }
  | {
      readonly kind: 'character-device';
      readonly path: string;
      readonly mode?: number;
      readonly major: number;
      readonly minor: number;
    };

const MAGIC = '070701';
const TRAILER = 'TRAILER!!!';
const HEADER_BYTES = 110;
const TYPE_BITS = {
  directory: 0o040000,
  file: 0o100000,
  symlink: 0o120000,
  'character-device': 0o020000,
} as const;

/**
 * The archive of `entries`, in their order; directories that a path needs and that no entry before
 * it names are put in with mode 0755.
 * @throws RangeError where a path is absolute, climbs with "..", is named twice, or is too long.
 */
export function writeArchive(entries: readonly ArchiveEntry[]): Buffer {
  const pieces: Uint8Array[] = [];
  const seen = new Set<string>();
  let inode = 0;

  const put = (entry: ArchiveEntry) => {
    seen.add(entry.path);
    inode += 1;
    pieces.push(...member(entry, inode));
  };

  for (const entry of entries) {
    checkPath(entry.path);
    if (seen.has(entry.path)) {
      throw new RangeError(`expected each path of an archive once, got ${entry.path} twice`);
    }
    const parts = entry.path.split('/');
    for (let depth = 1; depth < parts.length; depth++) {
      const parent = parts.slice(0, depth).join('/');
      if (!seen.has(parent)) put({ kind: 'directory', path: parent });
    }
    put(entry);
  }
  pieces.push(header({ name: TRAILER, inode: 0, mode: 0, links: 1, size: 0 }));
  return Buffer.concat(pieces);
}

function member(entry: ArchiveEntry, inode: number): Uint8Array[] {
  const permissions =
    entry.kind === 'symlink'
      ? 0o777
      : (entry.mode ??
        (entry.kind === 'directory' ? 0o755 : entry.kind === 'file' ? 0o644 : 0o600));
  const content =
    entry.kind === 'file'
      ? entry.bytes
      : entry.kind === 'symlink'
        ? Buffer.from(entry.target)
        : new Uint8Array();
  const head = header({
    name: entry.path,
    inode,
    mode: TYPE_BITS[entry.kind] | permissions,
    links: entry.kind === 'directory' ? 2 : 1,
    size: content.length,
    ...(entry.kind === 'character-device' ? { device: [entry.major, entry.minor] as const } : {}),
  });
  return [head, content, padding(content.length)];
}

interface Header {
  readonly name: string;
  readonly inode: number;
  readonly mode: number;
  readonly links: number;
  readonly size: number;
  readonly device?: readonly [major: number, minor: number];
}

function header({ name, inode, mode, links, size, device = [0, 0] }: Header): Uint8Array {
  const nameBytes = Buffer.from(`${name}\0`);
  // Order of the fields: ino, mode, uid, gid, nlink, mtime, filesize, dev, rdev, namesize, check.
  const fields = [inode, mode, 0, 0, links, 0, size, 0, 0, ...device, nameBytes.length, 0];
  const text = MAGIC + fields.map((field) => field.toString(16).padStart(8, '0')).join('');
  const length = HEADER_BYTES + nameBytes.length;
  return Buffer.concat([Buffer.from(text, 'latin1'), nameBytes, padding(length)]);
}

/** Header with name, and content, each end on a multiple of four bytes. */
function padding(length: number): Uint8Array {
  return new Uint8Array(-length & 3);
}

function checkPath(path: string): void {
  const parts = path.split('/');
  const plain = parts.every((part) => part !== '' && part !== '.' && part !== '..');
  if (!plain || path.includes('\0') || Buffer.byteLength(path) > 4000) {
    throw new RangeError(
      `expected a path relative to the root, without "." and "..", got ${JSON.stringify(path)}`,
    );
  }
}
