/** A real guest's driver under `sealbus trace`, and what `sealbus report` makes of it. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { readTrace, type TraceEvent } from '../../src/trace/index.ts';
import { RunPlace } from '../protocol/cli/sealbus.ts';

const place = new RunPlace();
const output = join(place.path, 'edu.ndjson');
let events: readonly TraceEvent[];

function all<K extends TraceEvent['kind']>(kind: K, rid?: string) {
  return events.filter(
    (event): event is Extract<TraceEvent, { kind: K }> =>
      event.kind === kind && (rid === undefined || ('rid' in event && event.rid === rid)),
  );
}

/** Binds the driver behind a virtio-iommu, moves 4,096 bytes to the device and back, and lets go. */
const SESSION = [
  'set -e',
  'insmod /lib/modules/sealbus_edu.ko',
  "head -c 4096 /dev/zero | tr '\\0' x > /dev/edu0",
  'cat /dev/edu0 | wc -c',
  // Below the registers, where nothing is.
  'pcimem 0000:00:04.0 0 0x30 4',
  'rmmod sealbus_edu',
].join('\n');

beforeAll(async () => {
  const run = ['run', '--iommu', 'virtio', '--device', 'edu', '--', 'sh', '-c', SESSION];
  const flags = ['-o', output, '--perfetto', join(place.path, 'edu.json'), '--data', '4'];
  const { code, stdout, stderr } = await place.run(['trace', ...flags, '--', ...run]);
  expect([code, `${stdout}`.split('\n')[0]], stderr).toEqual([0, '4096']);
  expect(stderr).toMatch(/traced .*edu.ndjson, \d+ events/);
  const { cut, header, events: read } = readTrace(output);
  expect([cut, header.memory]).toEqual([false, 'sealed']);
  events = read;
});
afterEach(() => {
  expect(place.left).toEqual([]);
});
afterAll(() => place[Symbol.dispose]());

describe('a trace of a guest’s driver', () => {
  it('has the transfers that the driver made, decrypted as asked, each under the VM’s slot', () => {
    const transfers = all('dma', '00:04.0');
    expect(transfers).toMatchObject([
      { direction: 'read', bytes: 4096, data: '78787878' },
      { direction: 'write', bytes: 4096, data: '78787878' },
    ]);
    for (const { pieces } of transfers) {
      expect(pieces.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(4096);
      expect(pieces.every((piece) => piece.private && piece.slot === 1)).toBe(true);
    }
  });

  it('has the driver’s commands before them, and the device’s interrupts after them', () => {
    const rid = '00:04.0';
    const mine = events.filter((event) => 'rid' in event && event.rid === rid);
    const commands = mine.flatMap((event, index) =>
      event.kind === 'register' && event.direction === 'write' && event.fields?.start === 1
        ? [{ index, register: event.register, toRam: event.fields.toRam }]
        : [],
    );
    expect(commands).toMatchObject([
      { register: 'dmaCommand', toRam: 0 },
      { register: 'dmaCommand', toRam: 1 },
    ]);
    for (const { index } of commands) {
      const dma = mine.findIndex(({ kind }, at) => at > index && kind === 'dma');
      const interrupt = mine.findIndex(({ kind }, at) => at > index && kind === 'interrupt');
      expect(dma).toBeGreaterThan(index);
      expect(interrupt).toBeGreaterThan(dma);
    }
  });

  it('has what the guest mapped for each transfer, at the address that the device used', () => {
    const maps = all('iommu').filter(({ command, status }) => command === 'map' && status === 0);
    for (const { iova, t } of all('dma', '00:04.0')) {
      const covering = maps.filter(
        ({ start = '', end = '' }) => BigInt(start) <= BigInt(iova) && BigInt(iova) <= BigInt(end),
      );
      expect(covering.some((map) => map.t < t)).toBe(true);
    }
    expect(all('iommu').map(({ command }) => command)).toContain('attach');
  });

  it('is reported by the names of the device, with the access that it does not model', async () => {
    const { code, stdout } = await place.run(['report', output]);
    expect(code).toBe(0);
    const text = `${stdout}`;
    expect(text).toMatch(/^00:04\.0 Edu$/m);
    expect(text).toMatch(/never touched: .*factorial/);
    expect(text).toMatch(/not modelled +read of 4 bytes at BAR0\+0x30/);
    expect(text).toMatch(/DMA +1 read of 4,096 bytes, 1 write of 4,096 bytes/);
    expect(text).toMatch(/^00:03\.0 VirtioIommu$/m);
    expect(text).not.toMatch(/idle doorbells|DMA after reset|refused DMA/);
    const json = JSON.parse(`${(await place.run(['report', '--json', output])).stdout}`);
    // All that it mapped is unmapped when it is gone.
    expect(json.mappings).toMatchObject({ left: { count: 0 } });
  });

  it('has a track for each function in Perfetto', () => {
    const { traceEvents } = JSON.parse(readFileSync(join(place.path, 'edu.json'), 'utf8'));
    const tracks = traceEvents.filter(({ name }: { name: string }) => name === 'thread_name');
    expect(tracks.map(({ args }: { args: { name: string } }) => args.name)).toEqual([
      ...['00:03.0 VirtioIommu', '00:04.0 Edu', 'IOMMU requests'],
    ]);
  });
});

it('sealbus run --trace records by itself', async () => {
  const path = join(place.path, 'run.ndjson');
  const run = ['run', '--memory', 'plain', '--trace', path, '--', 'true'];
  const { code, stderr } = await place.run(run);
  expect(code, stderr).toBe(0);
  expect(readTrace(path)).toMatchObject({ cut: false, header: { memory: 'plain' } });
});
