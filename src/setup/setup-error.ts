/** What went wrong in set-up, said so that the reader can act: expected, got, and what to do. */
export class SetupError extends Error {
  override readonly name = 'SetupError';
  readonly expected: string;
  readonly got: string;
  readonly remedy: string;

  constructor(said: { expected: string; got: string; remedy: string; cause?: unknown }) {
    super(
      `set-up expected ${said.expected}, got ${said.got}. ${said.remedy}`,
      said.cause === undefined ? undefined : { cause: said.cause },
    );
    this.expected = said.expected;
    this.got = said.got;
    this.remedy = said.remedy;
  }
}

/** The disk that holds the cache is full, or the user's quota is. */
export function diskFull(
  path: string,
  needsBytes: number,
  { cause, freeBytes }: { readonly cause?: unknown; readonly freeBytes?: number } = {},
): SetupError {
  return new SetupError({
    expected: `${mebibytes(needsBytes)} free under ${path}`,
    got: freeBytes === undefined ? 'a full disk (or quota)' : `only ${mebibytes(freeBytes)}`,
    remedy:
      'Free some space, or set XDG_CACHE_HOME to a directory on a larger disk, and run it again: ' +
      'nothing half-made was left.',
    ...(cause === undefined ? {} : { cause }),
  });
}

/** Whether `error`, or what a program printed, says that there is no space left. */
export function saysDiskFull(error: unknown): boolean {
  if (error instanceof Error && 'code' in error) {
    if (['ENOSPC', 'EDQUOT', 'EFBIG'].includes(String(error.code))) return true;
  }
  const text =
    error instanceof Error && 'output' in error ? String(error.output) : messageOf(error);
  return /no space left on device|enough free space|disk quota exceeded|file too large/i.test(text);
}

/** @returns `bytes` as whole MiB, rounded up. */
export function mebibytes(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20)} MiB`;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
