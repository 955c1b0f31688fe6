/**
 * Errors that come later are told of where the test made the call: vitest shows that line, and not one
 * of sealbus.
 */
export interface CallSite {
  /** With the stack of the call. */
  error<E extends Error>(error: E): E;
  /** What it settles to; an error with the stack of the call. */
  during<Result>(work: Promise<Result>): Promise<Result>;
}

/** Of the call to `callee` that is being made. */
export function calledFrom(callee: (...args: never[]) => unknown): CallSite {
  const site: { stack?: string } = {};
  Error.captureStackTrace(site, callee);
  const frames = site.stack?.slice(site.stack.indexOf('\n    at ')) ?? '';
  const error = <E extends Error>(one: E): E => {
    one.stack = `${one.name}: ${one.message}${frames}`;
    return one;
  };
  return {
    error,
    async during(work) {
      try {
        return await work;
      } catch (thrown) {
        throw thrown instanceof Error ? error(thrown) : thrown;
      }
    },
  };
}
