/**
 * Which cores processes run on. Waking a process on another, sleeping core takes longer than all else
 * on a short way between two processes, and the scheduler chooses by chance: so it is told.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** Two processes that call each other: on different cores, or on one. */
export type Placement = 'twoCores' | 'oneCore';

/** The cores that this process may use, as taskset(1) takes them: `0-3,6`. */
export function allowedCores(): string {
  const text = readFileSync('/proc/self/status', 'utf8');
  const list = /^Cpus_allowed_list:\s*(\S+)$/m.exec(text)?.[1];
  if (list === undefined) throw new Error('expected Cpus_allowed_list in /proc/self/status');
  return list;
}

/** The numbers of a list such as `0-3,6`, in order. */
export function coresOf(list: string): number[] {
  return list.split(',').flatMap((range) => {
    const [first = Number.NaN, last = first] = range.split('-').map(Number);
    return Array.from({ length: last - first + 1 }, (_, index) => first + index);
  });
}

/** Puts all threads of a process onto the cores of a list. @throws Error where taskset(1) fails */
export function pin(pid: number, list: string): void {
  execFileSync('taskset', ['--all-tasks', '--pid', '--cpu-list', list, String(pid)]);
}
