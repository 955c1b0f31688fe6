import { expect, test } from 'vitest';
import { DriverTimes, type TimedRounds, timingScript } from '../../../bench/driver-times.ts';

const TIMED: TimedRounds = {
  ...{ functions: ['0000:00:04.0', '0000:00:05.0'], attributes: ['mmio_read_ns'] },
  ...{ rounds: 3, samples: 100 },
};
const line = (round: number, bdf: string, median: number) =>
  `${round} ${bdf} mmio_read_ns median ${median} min 1 p90 ${2 * median} mean ${median + 5} max 99 rounds 100`;
/** Round 0 warms up. */
const said = [0, 1, 2, 3]
  .flatMap((n) => [line(n, '0000:00:04.0', 10 * n), line(n, '0000:00:05.0', 100 - n)])
  .join('\n');

test('times are medians over the rounds that count, by function', () => {
  const times = new DriverTimes(`${said}\n`, TIMED);
  expect(times.of('0000:00:04.0', 'mmio_read_ns')).toEqual({
    ...{ median_ns: 20, min_ns: 1, p90_ns: 40, mean_ns: 25 },
  });
  expect(times.roundsOf('0000:00:05.0', 'mmio_read_ns')).toMatchObject([
    ...[{ median_ns: 99 }, { median_ns: 98 }, { median_ns: 97 }],
  ]);
});

test('what the driver does not say is named', () => {
  const without = said.split('\n').slice(1).join('\n');
  expect(() => new DriverTimes(without, TIMED)).toThrow(/expected 8 lines of times, got 7/);
  const other = said.replace('median', 'middle');
  expect(() => new DriverTimes(other, TIMED)).toThrow(/expected the driver's times, got "0 0000/);
});

test('each function is asked in every round', () => {
  const script = timingScript(TIMED);
  for (const bdf of TIMED.functions) {
    expect(script).toContain(`echo 100 > /sys/bus/pci/devices/${bdf}/rounds`);
    expect(script).toContain(`$(cat /sys/bus/pci/devices/${bdf}/mmio_read_ns)`);
  }
});
