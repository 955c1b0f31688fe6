import type { PciEndpoint } from '../pci/endpoint.ts';
import type { RegisterDescription } from '../pci/register/description.ts';
import type { RequesterId } from '../pci/requester-id.ts';

/** A guest's access to a BAR, as a `when` is asked about it. It holds until `when` returns. */
export class RegisterAccess {
  readonly rid: RequesterId;
  readonly direction: 'read' | 'write';
  readonly bar: number;
  readonly offset: number;
  /** Bytes. */
  readonly width: number;
  readonly #device: PciEndpoint;
  readonly #bytes: Uint8Array;

  constructor(
    function_: { readonly rid: RequesterId; readonly device: PciEndpoint },
    direction: 'read' | 'write',
    bar: number,
    offset: number,
    bytes: Uint8Array,
  ) {
    this.rid = function_.rid;
    this.#device = function_.device;
    this.direction = direction;
    this.bar = bar;
    this.offset = offset;
    this.width = bytes.length;
    this.#bytes = bytes;
  }

  /** The name of the register at its first byte, without an array's index; undefined where there is none. */
  get register(): string | undefined {
    return this.#device.registerMap?.[this.bar]?.find((one) => covers(one, this.offset))?.name;
  }

  /** What is written, of up to 8 bytes; undefined of a read, whose value is not there yet. */
  get value(): bigint | undefined {
    if (this.direction === 'read' || this.width > 8) return undefined;
    return this.#bytes.reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
  }

  toString(): string {
    const place = `BAR${this.bar} at 0x${this.offset.toString(16)}`;
    return `${this.direction} of ${this.width} bytes of ${place}`;
  }
}

function covers({ offset, width, count, stride }: RegisterDescription, at: number): boolean {
  const inside = at - offset;
  return inside >= 0 && inside < (count - 1) * stride + width && inside % stride < width;
}
