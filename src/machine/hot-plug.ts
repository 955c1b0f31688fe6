/** Functions that come to a machine and go from it while its guest runs: docs/isolation.md. */
import type { PciEndpoint } from '../pci/endpoint.ts';
import { formatRequesterId, type RequesterId } from '../pci/requester-id.ts';
import {
  addDevice,
  type HotPlugPatience,
  hotPlugPatience,
  namedDevices,
  removeDevice,
} from '../vm/hot-plug.ts';
import { functionId, portId, portOf, portPlaces } from '../vm/root-ports.ts';
import { VmError } from '../vm/vm-error.ts';
import type { GuestConnection } from './guest-monitor.ts';
import type { Machine, PluggedFunction, ReservedPlace } from './machine.ts';

export interface HotPlugOptions {
  /** {@link hotPlugPatience} where not given. */
  readonly patience?: Partial<HotPlugPatience>;
}

/** A function is in its place, and the guest that runs has not got it. */
export class NotInGuestError extends VmError {
  override readonly name = 'NotInGuestError';
  /** As it is plugged in; {@link attachFunction} tries again. */
  readonly plugged: PluggedFunction;

  constructor(plugged: PluggedFunction, cause: unknown) {
    const why = cause instanceof Error ? cause.message : String(cause);
    const { machine, rid } = plugged;
    super(
      `expected the guest of VM ${machine.vm} to get ${formatRequesterId(rid)}, got: ${why}. ` +
        'It is plugged in there all the same: attach it again, or start that QEMU anew with it',
      { cause },
    );
    this.plugged = plugged;
  }
}

/**
 * Plugs a function in behind a free root port, and gives it to the guest that runs. Its hot-plug driver finds it
 * a moment after this has resolved.
 * @throws RangeError where the machine has no such place; Error where it is taken, or no guest runs; VmError,
 *   QmpError where QEMU does not take it, and then it is not plugged in
 */
export async function hotPlugFunction(
  machine: Machine,
  endpoint: PciEndpoint,
  address: RequesterId,
  options: HotPlugOptions = {},
): Promise<PluggedFunction> {
  using guest = await machine.monitor.open(options.patience);
  if (guest === undefined) {
    throw new Error(
      `expected a guest of VM ${machine.vm} that runs, got none: plug the function in, for the guest to find at its boot`,
    );
  }
  using place = await placeFor(machine, [address], guest, options);
  const plugged = plugAt(machine, place, endpoint);
  try {
    await give(plugged, guest, options);
    return plugged;
  } catch (error) {
    if (machine.functions.includes(plugged)) machine.unplug(plugged);
    throw error;
  }
}

/**
 * Has the guest that runs let go of a function, and pulls it out; where the guest does not in time, it is pulled
 * out all the same, and the guest sees it die.
 * @returns whether the guest has let go of it; so it has where none runs
 * @throws Error where it is not plugged in here
 */
export async function hotUnplugFunction(
  plugged: PluggedFunction,
  options: HotPlugOptions = {},
): Promise<boolean> {
  const kept = await letGo(plugged, options);
  plugged.machine.unplug(plugged);
  return kept === undefined;
}

/**
 * Gives a function that is plugged in behind a root port to the guest that runs, if it has not got it.
 * @throws NotInGuestError; VmError where QEMU cannot be reached
 */
export async function attachFunction(
  plugged: PluggedFunction,
  options: HotPlugOptions = {},
): Promise<void> {
  if (!plugged.server.connected) await giveBack(plugged, options);
}

/** Gives it to the guest that runs once more, that has just let go of it. @throws as {@link attachFunction} */
export async function giveBack(plugged: PluggedFunction, options: HotPlugOptions): Promise<void> {
  if (portOf(plugged.address) === undefined) return;
  using guest = await plugged.machine.monitor.open(options.patience);
  if (guest !== undefined) await attachTo(guest, plugged, options);
}

/** @throws NotInGuestError */
export async function attachTo(
  guest: GuestConnection,
  plugged: PluggedFunction,
  options: HotPlugOptions,
): Promise<void> {
  try {
    await give(plugged, guest, options);
  } catch (error) {
    throw new NotInGuestError(plugged, error);
  }
}

/**
 * Has the guest that runs let go of a function that is behind a root port. Bus 0 has no such way.
 * @returns why the guest still has it, if it has
 */
export async function letGo(
  { machine, address, server }: PluggedFunction,
  options: HotPlugOptions,
): Promise<string | undefined> {
  if (!server.connected) return undefined;
  const port = portOf(address);
  if (port === undefined) return 'on bus 0 a guest cannot let go of a function';
  const kept = await askToLetGo(machine, functionId(port), options);
  // A QEMU that has ended meanwhile has not kept it.
  return server.connected || kept === undefined ? kept : undefined;
}

async function askToLetGo(
  machine: Machine,
  id: string,
  options: HotPlugOptions,
): Promise<string | undefined> {
  try {
    using guest = await machine.monitor.open(options.patience);
    if (guest === undefined) return `its QEMU has no QMP at ${machine.monitor.socketPath}`;
    return await removeDevice(guest.qmp, id, { ...hotPlugPatience, ...options.patience });
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/**
 * Reserves the first of some places that a machine can take a function at: at any that is free where no guest runs,
 * behind a free root port where one does.
 * @param guest that of a guest that runs
 * @throws RangeError, Error with what is wrong with the last of them; VmError, QmpError
 */
export async function placeFor(
  machine: Machine,
  places: readonly RequesterId[],
  guest: GuestConnection | undefined,
  options: HotPlugOptions,
): Promise<ReservedPlace> {
  const named = await devicesOf(machine, guest, options);
  let wrong: unknown;
  for (const place of places) {
    try {
      machine.expectFree(place);
      if (named !== undefined) expectFreePort(machine, place, named);
      return machine.reserve(place);
    } catch (error) {
      wrong = error;
    }
  }
  if (places.length === 1) throw wrong;
  const last = wrong instanceof Error ? wrong.message : String(wrong);
  throw new Error(
    `expected a place for the function in VM ${machine.vm}, got none. The last: ${last}`,
  );
}

/**
 * Looks once more at a place that was reserved: the machine or its guest may have ended meanwhile, and others may
 * have given that guest something. @throws as {@link placeFor}
 */
export async function expectStill(
  machine: Machine,
  { address }: ReservedPlace,
  guest: GuestConnection | undefined,
  options: HotPlugOptions,
): Promise<void> {
  const named = await devicesOf(machine, guest, options);
  if (named !== undefined) expectFreePort(machine, address, named);
}

/** Plugs a function in where a place is kept for it. @throws as Machine.plug */
export function plugAt(
  machine: Machine,
  place: ReservedPlace,
  endpoint: PciEndpoint,
): PluggedFunction {
  place[Symbol.dispose]();
  return machine.plug(endpoint, place.address);
}

/** Its own place, if that can be had there, else any root port's. */
export function placesOf(machine: Machine, address: RequesterId): RequesterId[] {
  return [...new Set([address, ...portPlaces(machine.rootPorts)])];
}

async function give(
  { address, server }: PluggedFunction,
  guest: GuestConnection,
  { patience }: HotPlugOptions,
): Promise<void> {
  const device = { kind: 'vfio-user', address, socket: server.socketPath } as const;
  await addDevice(guest.qmp, device, { ...hotPlugPatience, ...patience });
  if (server.connected) return;
  throw new VmError(
    `expected QEMU to connect to ${server.socketPath}, got its word that it has, and no connection`,
  );
}

/** Names of what its QEMU has; undefined where no guest runs. @throws VmError, QmpError */
async function devicesOf(
  machine: Machine,
  guest: GuestConnection | undefined,
  { patience }: HotPlugOptions,
): Promise<ReadonlySet<string> | undefined> {
  machine.monitor.expectUp();
  if (guest !== undefined) {
    return await namedDevices(guest.qmp, { ...hotPlugPatience, ...patience });
  }
  expectReachable(machine);
  return undefined;
}

/** A guest that runs and cannot be asked is not taken for one that is off. */
function expectReachable(machine: Machine): void {
  const { rootPorts, monitor, vm } = machine;
  if (rootPorts === 0 || !machine.functions.some(({ server }) => server.connected)) return;
  throw new VmError(
    `expected the QEMU that VM ${vm} is attached to at ${monitor.socketPath} with its QMP, got nobody there: ` +
      'start it by the command that is printed, or end it first',
  );
}

/** What a guest has not let go of stays in its port, whoever has pulled it out. */
function expectFreePort(machine: Machine, place: RequesterId, named: ReadonlySet<string>): void {
  const port = portOf(place);
  const name = formatRequesterId(place);
  if (port === undefined) {
    const ports =
      machine.rootPorts === 0 ? 'give the machine root ports' : 'name a place behind one';
    throw new Error(
      `expected a root port for the guest of VM ${machine.vm}, which runs, got ${name} on bus 0, where it finds ` +
        `no function before it boots: ${ports}`,
    );
  }
  if (!named.has(portId(port))) {
    throw new Error(
      `expected a QEMU with the root port ${portId(port)}, got one without: start it by the command that is printed`,
    );
  }
  if (named.has(functionId(port))) {
    throw new Error(
      `expected a free root port, got ${name}, where the guest still has what was pulled out: take another, or ` +
        'have it let go',
    );
  }
}
