import { tmpdir } from 'node:os';

/** An image that cannot be made: what was expected, what was got, what to do. */
export class ImageError extends Error {
  override readonly name = 'ImageError';
}

/** The disk that holds `directory` is full, or the user's quota is. */
export function noRoom(directory: string): ImageError {
  const named = directory === tmpdir() ? ', or set TMPDIR to a directory on a larger disk' : '';
  return new ImageError(
    `expected room in ${directory} for an image that is being made, about 1 GiB, got a full disk ` +
      `(or quota). Free some${named}: nothing half-made was left`,
  );
}
