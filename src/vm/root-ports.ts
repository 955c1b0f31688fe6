/**
 * PCI Express root ports of a guest's machine: a function behind one comes and goes while the guest runs, which
 * bus 0 has not (QEMU's docs/pcie.txt).
 *
 * Port n, from 1 on, has the n-th place from 00:01.0 on. Firmware numbers buses in the order of the bridges that
 * it meets, and no other bridge is before them, so that bus n is behind port n; a port's link leads to one device,
 * device 0. What makes a DMA there has its own requester ID, for no PCI bridge is between.
 */
import { formatRequesterId, type RequesterId, requesterId } from '../pci/requester-id.ts';

/** What the two device numbers below a virtio-iommu's hold. */
export const ROOT_PORTS_MAX = 16;

/** The first places on bus 0 that are ports'. */
const FIRST_DEVICE = 1;
const FUNCTIONS = 8;

/** 1 to `count`. */
function numbers(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index + 1);
}

/** Where functions may be behind so many ports, in order. */
export function portPlaces(count: number): RequesterId[] {
  return numbers(count).map((bus) => requesterId({ bus, device: 0, function: 0 }));
}

/** The port that a function is behind; undefined on bus 0. */
export function portOf(address: RequesterId): number | undefined {
  return address > 0xff && address <= 0xffff ? address >> 8 : undefined;
}

/** @throws RangeError where it is no number of ports */
export function checkRootPorts(count: number): void {
  if (Number.isInteger(count) && count >= 0 && count <= ROOT_PORTS_MAX) return;
  throw new RangeError(`expected 0 to ${ROOT_PORTS_MAX} root ports, got ${count}`);
}

/**
 * Whether a machine with so many ports has that place for a function: on bus 0, beside its ports, or behind a port.
 * @throws RangeError where it has not
 */
export function checkPlace(address: RequesterId, ports: number): void {
  const name = formatRequesterId(address);
  if (address > 0xff) {
    if (portPlaces(ports).includes(address)) return;
    const has = ports === 0 ? 'none' : `${ports}, the first with 01:00.0`;
    throw new RangeError(
      `expected a place on bus 0 of segment 0, or behind a root port (the machine has ${has}), got ${name}`,
    );
  }
  const first = FIRST_DEVICE * FUNCTIONS;
  const taken = Math.ceil(ports / FUNCTIONS) * FUNCTIONS;
  if (address >= first && address < first + taken) {
    throw new RangeError(`expected a free place, got ${name}, where the machine's root ports are`);
  }
}

/** QEMU's name for a port. */
export function portId(port: number): string {
  return `port-${port}`;
}

/** QEMU's name for the function behind a port, however it came there. */
export function functionId(port: number): string {
  return `port-${port}-function`;
}

/** Properties of QEMU devices: so many ports. Chassis and slot number have to differ, no more. */
export function rootPortDevices(count: number): Record<string, unknown>[] {
  return numbers(count).map((port) => {
    const at = FIRST_DEVICE * FUNCTIONS + port - 1;
    const [device, fn] = [at >> 3, at & 7];
    const several = fn === 0 && port < count;
    return {
      ...{ driver: 'pcie-root-port', id: portId(port), bus: 'pcie.0', chassis: port, slot: port },
      addr: `${device.toString(16)}.${fn}`,
      ...(several ? { multifunction: true } : {}),
    };
  });
}
