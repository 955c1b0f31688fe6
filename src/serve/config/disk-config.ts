import { isAbsolute, resolve } from 'node:path';
import type { CheckedNode } from './checked-node.ts';
import type { ConfigPlace } from './config-place.ts';

export interface DiskConfig {
  readonly place: ConfigPlace;
  readonly file: string;
  readonly readOnly: boolean;
}

export const DISK_FIELDS = ['file', 'read-only'] as const;

/** A file name, or `{ file: NAME, read-only: true }`. */
export function diskOf(node: CheckedNode, directory: string): DiskConfig | undefined {
  const fields = node.isFields ? node.fields(DISK_FIELDS) : { file: node };
  return fields && diskOfFields(node, fields, directory);
}

export function diskOfFields(
  node: CheckedNode,
  fields: Partial<Record<(typeof DISK_FIELDS)[number], CheckedNode>>,
  directory: string,
): DiskConfig | undefined {
  if (fields.file === undefined) return node.wrong('expected a file, got none');
  const file = fields.file.text('a file');
  const readOnly = fields['read-only']?.flag('whether it is read only') ?? false;
  return file === undefined
    ? undefined
    : { place: node.place, file: inDirectory(directory, file), readOnly };
}

/** A file name of a configuration, which is relative to its directory. */
export function inDirectory(directory: string, file: string): string {
  return isAbsolute(file) ? file : resolve(directory, file);
}
