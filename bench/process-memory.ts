import { readFileSync } from 'node:fs';

/** Bytes of a process, guest RAM and DRAM left out. */
export interface ProcessMemory {
  readonly rss_bytes: number;
  /** Shared pages by their share. */
  readonly pss_bytes: number;
  /** What was left out: resident pages of guest RAM and DRAM. */
  readonly guestRam_bytes: number;
}

const MAPPING = /^[0-9a-f]+-[0-9a-f]+ \S+ [0-9a-f]+ \S+ \d+ *(.*)$/;

/**
 * Reads /proc/PID/smaps (proc_pid_smaps(5)).
 * @param isGuestRam whether a mapping of that path is guest RAM or DRAM
 * @throws Error where the process is gone or not ours to look at
 */
export function processMemory(pid: number, isGuestRam: (path: string) => boolean): ProcessMemory {
  return sumMappings(readFileSync(`/proc/${pid}/smaps`, 'utf8'), isGuestRam);
}

/** @param smaps the text of /proc/PID/smaps */
export function sumMappings(smaps: string, isGuestRam: (path: string) => boolean): ProcessMemory {
  let left = false;
  let rss_bytes = 0;
  let pss_bytes = 0;
  let guestRam_bytes = 0;
  for (const line of smaps.split('\n')) {
    const mapping = MAPPING.exec(line);
    if (mapping !== null) {
      left = isGuestRam(mapping[1] ?? '');
      continue;
    }
    const value = /^(Rss|Pss): +(\d+) kB$/.exec(line);
    if (value === null) continue;
    const bytes = Number(value[2]) * 1024;
    if (value[1] === 'Rss' && left) guestRam_bytes += bytes;
    else if (value[1] === 'Rss') rss_bytes += bytes;
    else if (!left) pss_bytes += bytes;
  }
  if (rss_bytes === 0) throw new Error('expected the mappings of a live process, got none');
  return { rss_bytes, pss_bytes, guestRam_bytes };
}
