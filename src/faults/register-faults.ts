import type { PciEndpoint } from '../pci/endpoint.ts';
import { type AnyArmed, type ArmedOf, faultOn } from './fault.ts';
import { FaultSite } from './fault-site.ts';
import type { FunctionHost } from './function-host.ts';
import { optionalBits, optionalNumber, optionalText } from './parameter.ts';
import { RegisterAccess } from './register-access.ts';
import { allBits, placeOfRegister, type RegisterPlace } from './register-place.ts';
import { type ArmedReset, resetFaults } from './reset-faults.ts';
import { meets, StuckBits } from './stuck-bits.ts';

const fault = faultOn<RegisterAccess>();

export const registerFaults = {
  'register.all-ones': fault({
    says: 'The function is gone, as by surprise removal: reads give all ones, and it does nothing.',
    occasion: 'each register access of the guest',
    parameters: {},
  }),
  'register.stuck': fault({
    says: 'Bits of a register keep a value, whatever driver and device do.',
    occasion: 'each access of the guest to that register',
    parameters: {
      register: optionalText('which: NAME, NAME.FIELD or NAME[ELEMENT]'),
      bar: optionalNumber('without a name: its BAR; default 0', 0, 5),
      offset: optionalNumber('without a name: its offset in the BAR', 0, 2 ** 31 - 1),
      width: optionalNumber('without a name: its bytes, 1 to 8; default 4', 1, 8),
      mask: optionalBits('which bits; default all, or the field'),
      value: optionalBits('the value, of the whole register; default what it reads then'),
    },
    check({ register, offset }) {
      if ((register === undefined) !== (offset === undefined)) return;
      throw new TypeError('register.stuck needs a register by its name, or by its offset in a BAR');
    },
  }),
  'device.stall': fault({
    says: 'The device takes register writes and does nothing, until it is reset.',
    occasion: 'each register write of the guest',
    parameters: {},
  }),
};

type ArmedRegisterFault = ArmedOf<typeof registerFaults> | ArmedReset;
type ArmedStuck = Extract<ArmedRegisterFault, { readonly name: 'register.stuck' }>;

/** The guest's accesses to a function's BARs. */
export class RegisterSite extends FaultSite<ArmedRegisterFault> {
  readonly #inner: PciEndpoint;
  readonly #host: FunctionHost;
  readonly #places = new Map<ArmedStuck, RegisterPlace>();
  readonly #stuck = new Map<ArmedStuck, StuckBits>();
  /** What has halted the function. */
  #cause: ArmedRegisterFault | undefined;

  constructor(inner: PciEndpoint, host: FunctionHost) {
    super();
    this.#inner = inner;
    this.#host = host;
  }

  readBar(bar: number, offset: number, into: Uint8Array): void {
    if (!this.active) {
      this.#inner.readBar(bar, offset, into);
      return;
    }
    this.#beforeAccess('read', bar, offset, into);
    if (this.halted === 'removed') {
      into.fill(0xff);
      return;
    }
    this.#inner.readBar(bar, offset, into);
    for (const stuck of this.#stuck.values()) stuck.setIn(bar, offset, into);
  }

  writeBar(bar: number, offset: number, from: Uint8Array): void {
    if (!this.active) {
      this.#inner.writeBar(bar, offset, from);
      return;
    }
    const due = this.#beforeAccess('write', bar, offset, from);
    if (this.halted !== undefined) return;
    this.#inner.writeBar(bar, offset, this.#withStuckBits(bar, offset, from));
    if (due?.name === 'reset.during') {
      due.struck(`after a write of ${from.length} bytes to BAR${bar} at 0x${offset.toString(16)}`);
      this.#host.resetFromOutside('function-level');
    }
  }

  protected override takes(fault: AnyArmed): fault is ArmedRegisterFault {
    if (fault.name in registerFaults) return true;
    return fault.name in resetFaults && (fault as ArmedReset).parameters.of === 'write';
  }

  /** @throws RangeError where it names no register of this function */
  override arm(fault: AnyArmed): void {
    if (this.takes(fault) && fault.name === 'register.stuck') {
      this.#places.set(fault, this.#placeOf(fault));
    }
    super.arm(fault);
  }

  override disarm(fault: AnyArmed): void {
    super.disarm(fault);
    this.#places.delete(fault as ArmedStuck);
    this.#stuck.delete(fault as ArmedStuck);
    if (this.#cause !== undefined && (fault as ArmedRegisterFault) === this.#cause) {
      this.#cause = undefined;
      this.#host.heal();
    }
  }

  /** @throws RangeError where this function has no such register */
  #placeOf({ name, parameters }: ArmedStuck): RegisterPlace {
    const { register, bar = 0, offset, width = 4, mask } = parameters;
    const place =
      register === undefined
        ? { bar, offset: offset ?? 0, width, mask: allBits(width) }
        : placeOfRegister(this.#host.device, register);
    if (offset !== undefined && offset + width > (this.#inner.bars[bar]?.size ?? 0)) {
      throw new RangeError(
        `expected ${name} inside a BAR of the function, got ${width} bytes at 0x${offset.toString(16)} of BAR${bar}`,
      );
    }
    return mask === undefined ? place : { ...place, mask: BigInt(mask) & allBits(place.width) };
  }

  /** Asks the faults; what halts the function or sticks does so before the access. */
  #beforeAccess(
    direction: 'read' | 'write',
    bar: number,
    offset: number,
    bytes: Uint8Array,
  ): ArmedRegisterFault | undefined {
    if (this.halted !== undefined || this.faults.length === 0) return undefined;
    const access = new RegisterAccess(this.#host, direction, bar, offset, bytes);
    let due: ArmedRegisterFault | undefined;
    for (const fault of this.faults) {
      if (this.#concerns(fault, access) && fault.trigger.due(access)) due ??= fault;
    }
    switch (due?.name) {
      case 'register.all-ones':
        due.struck(`removed before a ${access}`);
        this.#cause = due;
        this.#host.remove();
        break;
      case 'device.stall':
        due.struck(`stalled before a ${access}`);
        this.#cause = due;
        this.#host.stall();
        break;
      case 'register.stuck':
        this.#stick(due);
        break;
    }
    return due;
  }

  #concerns(fault: ArmedRegisterFault, access: RegisterAccess): boolean {
    switch (fault.name) {
      case 'register.all-ones':
        return true;
      case 'register.stuck': {
        const place = this.#places.get(fault);
        if (place === undefined || this.#stuck.has(fault)) return false;
        return meets(place, access.bar, access.offset, access.width);
      }
      default:
        return access.direction === 'write';
    }
  }

  #stick(fault: ArmedStuck): void {
    const place = this.#places.get(fault);
    if (place === undefined) return;
    const { value } = fault.parameters;
    const bits = new StuckBits(place, value === undefined ? this.#now(place) : BigInt(value));
    this.#stuck.set(fault, bits);
    const where = fault.parameters.register ?? `BAR${place.bar} at 0x${place.offset.toString(16)}`;
    fault.struck(`${where}, bits 0x${place.mask.toString(16)}`);
  }

  #now({ bar, offset, width }: RegisterPlace): bigint {
    const bytes = new Uint8Array(width);
    this.#inner.readBar(bar, offset, bytes);
    return bytes.reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
  }

  #withStuckBits(bar: number, offset: number, from: Uint8Array): Uint8Array {
    if (this.#stuck.size === 0) return from;
    const bytes = from.slice();
    for (const stuck of this.#stuck.values()) stuck.setIn(bar, offset, bytes);
    return bytes;
  }
}
