/** Events of every kind, as a trace may hold them. */
import fc from 'fast-check';
import type { TraceEvent } from '../../../src/trace/index.ts';

const address = fc
  .bigInt({ min: 0n, max: 2n ** 64n - 1n })
  .map((value): string => `0x${value.toString(16)}`);
const rid = fc.tuple(fc.nat(0xff), fc.nat(31), fc.nat(7)).map(([bus, device, fn]) => {
  const hex = (value: number) => value.toString(16).padStart(2, '0');
  return `${hex(bus)}:${hex(device)}.${fn}`;
});
const t = fc.nat();
const count = fc.nat();
const bar = fc.nat(5);
const direction = fc.constantFrom('read' as const, 'write' as const);
const digits = fc.uint8Array().map((bytes) => Buffer.from(bytes).toString('hex'));
const text = fc.string({ unit: 'grapheme' });
const register = fc.record({
  ...{ name: text, offset: count, width: count, count, stride: count },
  access: fc.constantFrom(...(['read-only', 'write-only', 'read-write', 'memory'] as const)),
  fields: fc.dictionary(text, fc.record({ low: fc.nat(63), bits: fc.nat(53) }), {
    maxKeys: 3,
    noNullPrototype: true,
  }),
});

/** Of those without `requiredKeys` all are there; others may be absent. */
const kinds: { readonly [K in TraceEvent['kind']]: fc.Arbitrary<object> } = {
  function: fc.record({
    ...{ t, rid, name: text },
    identity: fc.record({
      ...{ vendor: count, device: count, subsystemVendor: count },
      ...{ subsystem: count, revision: count, classCode: count },
    }),
    interrupts: fc.record({ intx: fc.constantFrom(0, 1), msi: count, msix: count }),
    bars: fc.array(
      fc.record({ bar, size: count, registers: fc.array(register, { maxLength: 3 }) }),
      { maxLength: 2 },
    ),
  }),
  register: fc.record(
    {
      ...{ t, rid, direction, bar, offset: count, width: count, register: text, took: count },
      value: fc.oneof(address, digits),
      fields: fc.dictionary(text, count, { maxKeys: 3, noNullPrototype: true }),
      sameTurn: fc.constant(true),
    },
    { requiredKeys: ['t', 'rid', 'direction', 'bar', 'offset', 'width', 'value'] },
  ),
  dma: fc.record(
    {
      ...{ t, rid, direction, iova: address, bytes: count, data: digits },
      pieces: fc.array(
        fc.record({ gpa: address, bytes: count, slot: count, private: fc.boolean() }),
        { maxLength: 3 },
      ),
    },
    { requiredKeys: ['t', 'rid', 'direction', 'iova', 'bytes', 'pieces'] },
  ),
  fault: fc.record(
    { t, rid, direction, iova: address, bytes: count, reason: text, slot: count },
    { requiredKeys: ['t', 'rid', 'direction', 'iova', 'bytes', 'reason'] },
  ),
  interrupt: fc.oneof(
    fc.record({ t, rid, how: fc.constantFrom('msi', 'msi-x'), vector: count }),
    fc.record({ t, rid, how: fc.constant('intx'), asserted: fc.boolean() }),
  ),
  'interrupt-mode': fc.record({
    ...{ t, rid, mode: fc.constantFrom('none', 'intx', 'msi', 'msi-x') },
  }),
  reset: fc.record({
    ...{ t, rid },
    cause: fc.constantFrom('function-level', 'device', 'power-state', 'connection-lost'),
  }),
  alarm: fc.record({ t, rid, alarm: count }),
  unmodelled: fc.record({ t, rid, direction, bar, offset: count, width: count, why: text }),
  iommu: fc.record(
    {
      ...{ t, command: fc.constantFrom('attach', 'detach', 'map', 'unmap', 'probe') },
      ...{ status: fc.nat(8), domain: count, endpoint: rid },
      ...{
        start: address,
        end: address,
        target: address,
        rights: fc.constantFrom('r', 'w', 'rwm'),
      },
    },
    { requiredKeys: ['t', 'command', 'status'] },
  ),
  'device-error': fc.record({ t, rid, message: text }),
  injected: fc.record({ t, rid, fault: text, detail: text }),
};

export const anyEvent: fc.Arbitrary<TraceEvent> = fc.oneof(
  ...Object.entries(kinds).map(([kind, rest]) =>
    rest.map((event) => ({ ...event, kind }) as TraceEvent),
  ),
);
