/** An image that cannot be made: what was expected, what was got, what to do. */
export class ImageError extends Error {
  override readonly name = 'ImageError';
}
