import { formatRequesterId, type RequesterId } from '../pci/requester-id.ts';

/** As a trace has it: `00:05.0`, with the segment in front only where it is not 0. */
export function ridText(rid: RequesterId): string {
  return formatRequesterId(rid).replace(/^0000:/, '');
}

/** An address or a value of up to 64 bits as a trace has it. */
export function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}
