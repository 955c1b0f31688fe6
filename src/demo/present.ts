import type { DemonstrationReport } from './demonstration.ts';

/** The report for a person: plain text, which needs no colours to be read. */
export function present(report: DemonstrationReport): string {
  const { guest, function: fn, memory, dma, dram, buffer, refused, pictures, failures } = report;
  const sealed = memory.mode === 'sealed';
  const lines = [
    '',
    `guest     Linux ${guest.kernel} on ${guest.accel.toUpperCase()}, up in ${guest.bootSeconds.toFixed(1)} s`,
    `function  ${fn.rid}  ${fn.vendor}:${fn.device}  written in TypeScript, driven by ${fn.driver}`,
    `memory    ${memory.bytes / 2 ** 20} MiB, ${sealed ? 'sealed (AES-256-XTS)' : 'PLAIN: nothing is encrypted'}`,
    '',
    `The device read ${count(dma.bytesRead)} bytes of a picture from the guest and wrote ${count(dma.bytesWritten)} back.`,
    `  SHA-256 in the guest    ${dma.digests.guest}`,
    `          in the device   ${dma.digests.device}`,
    `          back in guest   ${dma.digests.returned}   ${dma.digestMatches ? 'all equal' : 'DIFFERENT'}`,
    '',
    `The driver's DMA buffer, at guest-physical ${buffer.gpa}:`,
    `  as the device sees it                              in DRAM`,
    ...sideBySide(buffer.device, buffer.dram),
    '',
    `A marker that the guest holds ${count(dram.markersHeld)} times, in ${count(dram.pagesWritten)} pages of DRAM that hold anything:`,
    `  in DRAM ${count(dram.markerHits)} times, in DRAM through the key slot ${count(dram.markerHitsDecrypted)} times`,
    '',
    'What must be refused        DMA    bytes out  bytes changed  faults  reason',
    ...refused.map(
      ({ case: name, direction, bytesDisclosed, bytesChanged, faults, reason }) =>
        `  ${name.padEnd(24)}  ${direction.padEnd(5)}  ${String(bytesDisclosed).padStart(9)}  ` +
        `${String(bytesChanged).padStart(13)}  ${String(faults).padStart(6)}  ${reason}`,
    ),
    '',
    `The guest's picture as it lies in DRAM  ${pictures.dram}`,
    `               as the device sees it    ${pictures.device}`,
    '',
    ...(failures.length === 0
      ? ['All of it held.']
      : ['NOT all of it held:', ...failures.map((words) => `  ${words}`)]),
  ];
  return `${lines.join('\n')}\n`;
}

function count(value: number): string {
  return value.toLocaleString('en-US');
}

/** Two hexadecimal strings, sixteen bytes a line, beside each other. */
function sideBySide(left: string, right: string): string[] {
  const lines: string[] = [];
  for (let at = 0; at < left.length; at += 32) {
    lines.push(`  ${bytesOf(left.slice(at, at + 32))}    ${bytesOf(right.slice(at, at + 32))}`);
  }
  return lines;
}

function bytesOf(hex: string): string {
  return (hex.match(/../g) ?? []).join(' ');
}
