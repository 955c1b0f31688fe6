import { InvalidArgumentError } from 'commander';

/** What `parse` makes of an argument; its error is the command line's. @throws InvalidArgumentError */
export function asArgument<T>(parse: (text: string) => T, text: string): T {
  try {
    return parse(text);
  } catch (error) {
    throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
  }
}
