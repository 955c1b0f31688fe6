import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  formatRequesterId,
  parseRequesterId,
  type RequesterId,
} from '../../../src/pci/requester-id.ts';
import {
  checkPlace,
  checkRootPorts,
  functionId,
  portId,
  portOf,
  portPlaces,
  ROOT_PORTS_MAX,
  rootPortDevices,
} from '../../../src/vm/root-ports.ts';

const counts = fc.integer({ min: 0, max: ROOT_PORTS_MAX });

/** The place on bus 0 of a device on the command line. */
function placeOf({ addr }: Readonly<Record<string, unknown>>): RequesterId {
  return parseRequesterId(`00:${addr}`);
}

test('bus n is behind port n: firmware numbers them in the order of their places', () => {
  fc.assert(
    fc.property(counts, (count) => {
      const ports = rootPortDevices(count);
      const order = [...ports].sort((a, b) => placeOf(a) - placeOf(b)).map(({ id }) => id);
      expect(order).toEqual(portPlaces(count).map((place) => portId(place >> 8)));
      for (const [index, place] of portPlaces(count).entries()) {
        expect(portOf(place)).toBe(index + 1);
        expect(formatRequesterId(place)).toMatch(/^0000:..:00\.0$/);
      }
    }),
  );
});

test('ports differ in all that has to differ, and say where a device has several of them', () => {
  const ports = rootPortDevices(ROOT_PORTS_MAX);
  for (const name of ['id', 'chassis', 'slot', 'addr']) {
    expect(new Set(ports.map((port) => port[name])).size).toBe(ROOT_PORTS_MAX);
  }
  const firsts = (count: number) =>
    rootPortDevices(count).flatMap((port) => (port.multifunction ? [port.addr] : []));
  expect([1, 2, 8, 9, 10].map(firsts)).toEqual([[], ['1.0'], ['1.0'], ['1.0'], ['1.0', '2.0']]);
});

describe('a machine has', () => {
  const takes = (place: RequesterId, count: number) => {
    try {
      checkPlace(place, count);
      return true;
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      expect(error.message).toContain(`got ${formatRequesterId(place)}`);
      return false;
    }
  };

  test('places on bus 0 where its ports are not, and one behind each port', () => {
    fc.assert(
      fc.property(counts, fc.nat(0x1_ffff), (count, at) => {
        const place = at as RequesterId;
        const portDevices = new Set(rootPortDevices(count).map((port) => placeOf(port) >> 3));
        const expected = at <= 0xff ? !portDevices.has(at >> 3) : portPlaces(count).includes(place);
        expect(takes(place, count)).toBe(expected);
      }),
    );
    for (const place of portPlaces(ROOT_PORTS_MAX)) {
      expect([takes(place, ROOT_PORTS_MAX), takes(place, (place >> 8) - 1)]).toEqual([true, false]);
    }
  });

  test.each([-1, 0.5, 17, Number.NaN])('no %d ports', (count) => {
    expect(() => checkRootPorts(count)).toThrow(/0 to 16 root ports, got/);
  });
});

test('a function on bus 0 is behind no port, and one of another segment neither', () => {
  for (const place of ['00:04.0', '00:1f.7', '0001:01:00.0']) {
    expect(portOf(parseRequesterId(place))).toBeUndefined();
  }
  expect(functionId(3)).not.toBe(portId(3));
});
