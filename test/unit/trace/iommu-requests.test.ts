/** Requests of the guest's IOMMU driver as a trace tells them. */
import { expect, test } from 'vitest';
import { iommuEvent } from '../../../src/trace/iommu-event.ts';
import { bytesOf, ENDPOINTS, setUp } from '../devices/iommu/iommu-bench.ts';

const [ENDPOINT = 0] = ENDPOINTS;

function recorder() {
  const { handler } = setUp();
  const events: ReturnType<typeof iommuEvent>[] = [];
  const stop = handler.onRequest((...seen) => events.push(iommuEvent(...seen)));
  return { events, stop, serve: (bytes: Uint8Array) => handler.serve(bytes, 68) };
}

test('each request is told with what it asked and how it was answered', () => {
  const { events, serve } = recorder();
  serve(bytesOf.probe(ENDPOINT));
  serve(bytesOf.attach(7, ENDPOINT));
  serve(bytesOf.map(7, 0x1000n, 0x2fffn, 0x5000n, 1));
  serve(bytesOf.map(7, 0x1000n, 0x1fffn, 0x9000n, 3));
  serve(bytesOf.unmap(7, 0x1000n, 0x2fffn));
  serve(bytesOf.unmap(9, 0n, 2n ** 64n - 1n));
  serve(bytesOf.detach(7, ENDPOINT));
  expect(events).toEqual([
    { kind: 'iommu', command: 'probe', status: 0, endpoint: '00:04.0' },
    { kind: 'iommu', command: 'attach', status: 0, domain: 7, endpoint: '00:04.0' },
    {
      ...{ kind: 'iommu', command: 'map', status: 0, domain: 7 },
      ...{ start: '0x1000', end: '0x2fff', target: '0x5000', rights: 'r' },
    },
    // VIRTIO_IOMMU_S_INVAL: it is mapped already.
    {
      ...{ kind: 'iommu', command: 'map', status: 4, domain: 7 },
      ...{ start: '0x1000', end: '0x1fff', target: '0x9000', rights: 'rw' },
    },
    { kind: 'iommu', command: 'unmap', status: 0, domain: 7, start: '0x1000', end: '0x2fff' },
    // VIRTIO_IOMMU_S_NOENT.
    {
      ...{ kind: 'iommu', command: 'unmap', status: 6, domain: 9 },
      ...{ start: '0x0', end: '0xffffffffffffffff' },
    },
    { kind: 'iommu', command: 'detach', status: 0, domain: 7, endpoint: '00:04.0' },
  ]);
});

test('one that came too short is told as refused; what has no such type is none', () => {
  const { events, serve, stop } = recorder();
  serve(bytesOf.attach(7, ENDPOINT).subarray(0, 8));
  serve(Uint8Array.of(99, 0, 0, 0));
  expect(events).toEqual([{ kind: 'iommu', command: 'attach', status: 4 }]);
  stop();
  serve(bytesOf.probe(ENDPOINT));
  expect(events).toHaveLength(1);
});

test('an endpoint that is no function’s is told all the same', () => {
  const { events, serve } = recorder();
  serve(bytesOf.probe(0xffff_ffff));
  expect(events).toMatchObject([{ status: 6, endpoint: 'ffff:ff:1f.7' }]);
});
