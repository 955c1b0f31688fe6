/**
 * The requester ID: segment:bus:device.function of the function that makes a DMA.
 * PCI Express Base Specification, "Transaction Layer: Requester ID".
 *
 * Packed as `segment << 16 | bus << 8 | device << 3 | function`, so that it indexes a table.
 */
export type RequesterId = number & { readonly __unit: 'rid' };

export interface Bdf {
  /** PCI segment group, 0 to 65535. */
  readonly segment?: number;
  /** 0 to 255. */
  readonly bus: number;
  /** 0 to 31. */
  readonly device: number;
  /** 0 to 7. */
  readonly function: number;
}

/** @throws RangeError where a part does not fit its field. */
export function requesterId(bdf: Bdf): RequesterId {
  const segment = bdf.segment ?? 0;
  within('segment', segment, 0xffff);
  within('bus', bdf.bus, 0xff);
  within('device', bdf.device, 0x1f);
  within('function', bdf.function, 7);
  return (segment * 0x10000 + (bdf.bus << 8) + (bdf.device << 3) + bdf.function) as RequesterId;
}

/** The PCI segment group of a function: on a host with several VMs, which of them it is in. */
export function segmentOf(rid: RequesterId): number {
  return Math.floor(rid / 0x10000);
}

/** `0000:00:04.0`, as lspci -D prints it. */
export function formatRequesterId(rid: RequesterId): string {
  const hex = (value: number, digits: number) => value.toString(16).padStart(digits, '0');
  return `${hex(segmentOf(rid), 4)}:${hex((rid >> 8) & 0xff, 2)}:${hex((rid >> 3) & 0x1f, 2)}.${rid & 7}`;
}

/** Reads `[SSSS:]BB:DD.F`. @throws SyntaxError where the text is not of that form. */
export function parseRequesterId(text: string): RequesterId {
  const match = /^(?:([0-9a-f]{1,4}):)?([0-9a-f]{1,2}):([0-9a-f]{1,2})\.([0-7])$/i.exec(text);
  if (!match) {
    throw new SyntaxError(
      `expected a requester ID as [SSSS:]BB:DD.F (such as 00:04.0), got ${JSON.stringify(text)}`,
    );
  }
  const [, segment = '0', bus = '', device = '', fn = ''] = match;
  return requesterId({
    segment: Number.parseInt(segment, 16),
    bus: Number.parseInt(bus, 16),
    device: Number.parseInt(device, 16),
    function: Number(fn),
  });
}

function within(name: string, value: number, max: number): void {
  if (!Number.isInteger(value) || value < 0 || value > max) {
    throw new RangeError(`expected a ${name} from 0 to ${max}, got ${value}`);
  }
}
