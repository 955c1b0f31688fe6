/** Functions that a user wrote, out of the file that they are in. */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { PciFunction } from '../pci/function.ts';

export type FunctionClass = new () => PciFunction;

/**
 * The class that a module exports under that name; without one, the only such class.
 * @throws Error where there is no such file or class
 */
export async function functionClassOf(
  source: string,
  exportName: string | undefined,
): Promise<FunctionClass> {
  const path = resolve(source);
  if (!existsSync(path)) {
    throw new Error(`expected a device, 'edu' or a TypeScript file, got ${source}: no such file`);
  }
  const exports = (await import(pathToFileURL(path).href)) as Record<string, unknown>;
  const named = Object.entries(exports).filter(([, value]) => isFunctionClass(value));
  const wanted = exportName ?? (named.length === 1 ? named[0]?.[0] : 'default');
  const found = wanted === undefined ? undefined : exports[wanted];
  if (!isFunctionClass(found)) {
    const there = named.map(([name]) => name).join(', ') || 'none';
    throw new Error(
      `expected ${source} to export ${wanted ?? 'a class'} that extends PciFunction, ` +
        `got: ${there}. Name one as ${source}#NAME`,
    );
  }
  return found;
}

function isFunctionClass(value: unknown): value is FunctionClass {
  return typeof value === 'function' && value.prototype instanceof PciFunction;
}
