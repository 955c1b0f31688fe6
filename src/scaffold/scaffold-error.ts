/** Why no project was made: expected, got, and what to do. Nothing of it is left. */
export class ScaffoldError extends Error {
  override readonly name = 'ScaffoldError';
}
