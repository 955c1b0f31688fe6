/** Mappings that a report tells of, against a model that keeps one flag a page. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { IommuEvent } from '../../../../src/trace/index.ts';
import { Mappings } from '../../../../src/trace/report/mappings.ts';
import { MadeTrace, RID } from './made-trace.ts';

const PAGE = 0x1000;
const hex = (value: number) => `0x${value.toString(16)}`;
const request = (command: IommuEvent['command'], more: Partial<IommuEvent> = {}) =>
  ({ kind: 'iommu', command, status: 0, domain: 1, ...more }) as const;
const attach = (domain = 1, endpoint = RID) => request('attach', { domain, endpoint });
const map = (page: number, pages = 1, rights = 'rw') =>
  request('map', {
    ...{ start: hex(page * PAGE), end: hex((page + pages) * PAGE - 1), target: '0x0', rights },
  });
const unmap = (page: number, pages = 1) =>
  request('unmap', { start: hex(page * PAGE), end: hex((page + pages) * PAGE - 1) });

test('a buffer without a DMA between its map and its unmap was never used', () => {
  const made = new MadeTrace().add(attach()).add(map(1)).add(map(2, 2)).add(map(8));
  made
    .dma({ iova: 3 * PAGE + 8 })
    .wait(5)
    .add(unmap(1))
    .add(unmap(2, 2));
  expect(made.report.mappings).toMatchObject({
    ...{ maps: 3, unmaps: 2 },
    unused: {
      count: 1,
      examples: [{ endpoints: [RID], domain: 1, start: '0x1000', bytes: PAGE, rights: 'rw' }],
    },
    left: { count: 1, bytes: PAGE, unused: 1, examples: [{ start: '0x8000' }] },
  });
});

test('a DMA of another function, or before the map, is no use of it', () => {
  const made = new MadeTrace().add(attach()).add(attach(2, '00:06.0'));
  made.dma({ iova: PAGE }).add(map(1)).dma({ iova: PAGE, rid: '00:06.0' });
  made.dma({ iova: 2 * PAGE }).add(unmap(1));
  expect(made.report.mappings?.unused.count).toBe(1);
});

test('a DMA uses all that it crosses', () => {
  const made = new MadeTrace().add(attach()).add(map(1)).add(map(2)).add(map(3));
  made.dma({ iova: 2 * PAGE - 1, bytes: 2 }).add(unmap(1, 3));
  expect(made.report.mappings).toMatchObject({ unmaps: 3, unused: { count: 1 } });
  expect(made.report.mappings?.unused.examples).toMatchObject([{ start: '0x3000' }]);
});

test('windows for interrupts are no buffers', () => {
  const made = new MadeTrace().add(attach()).add(map(0xfee00, 1, 'wm'));
  expect(made.report.mappings).toMatchObject({ maps: 0, left: { count: 0 } });
});

describe('what is gone without an unmap', () => {
  const made = () => new MadeTrace().add(attach()).add(map(1));

  test('goes with its domain’s last endpoint', () => {
    const detached = made().add(request('detach', { endpoint: RID }));
    expect(detached.report.mappings).toMatchObject({ left: { count: 0 }, unused: { count: 0 } });
    expect(made().add(attach(2)).report.mappings?.left.count).toBe(0);
  });

  test('stays where the endpoint is attached where it was, or another one is there', () => {
    expect(made().add(attach()).report.mappings?.left.count).toBe(1);
    const two = made()
      .add(attach(1, '00:06.0'))
      .add(request('detach', { endpoint: RID }));
    expect(two.report.mappings?.left).toMatchObject({
      count: 1,
      examples: [{ endpoints: ['00:06.0'] }],
    });
  });

  test('goes with a reset of the IOMMU, the driver’s own too', () => {
    const iommu = '00:03.0';
    const identity = {
      ...{ vendor: 0x1af4, device: 0x1057, subsystemVendor: 0x1af4, subsystem: 0 },
      ...{ revision: 1, classCode: 0x080600 },
    };
    const plugged = () =>
      new MadeTrace()
        .add({
          ...{ kind: 'function', rid: iommu, name: 'VirtioIommu', identity, bars: [] },
          interrupts: { intx: 1, msi: 0, msix: 3 },
        })
        .add(attach())
        .add(map(1));
    expect(plugged().report.mappings?.left.count).toBe(1);
    const reset = plugged().add({ kind: 'reset', rid: iommu, cause: 'device' });
    expect(reset.report.mappings?.left.count).toBe(0);
    const byDriver = plugged().add({
      ...{ kind: 'register', rid: iommu, direction: 'write', bar: 0, offset: 0x14, width: 1 },
      ...{ value: '0x0', register: 'deviceStatus' },
    });
    expect(byDriver.report.mappings?.left.count).toBe(0);
    const ofAnother = plugged().reset();
    expect(ofAnother.report.mappings?.left.count).toBe(1);
  });
});

test('refused requests change nothing and are counted', () => {
  const made = new MadeTrace().add(attach()).add({ ...map(1), status: 4 });
  made.add(map(2)).add({ ...unmap(2), status: 5 });
  expect(made.report.mappings).toMatchObject({
    ...{ maps: 1, unmaps: 0, refused: { map: 1, unmap: 1 } },
    left: { count: 1 },
  });
});

test('without a virtio-iommu there is nothing to say', () => {
  expect(new MadeTrace().dma().report.mappings).toBeUndefined();
});

test('whatever is mapped, used and unmapped, the counts are those of the model', () => {
  const step = fc.oneof(
    fc.record({
      do: fc.constant('map' as const),
      page: fc.nat(15),
      pages: fc.integer({ min: 1, max: 4 }),
    }),
    fc.record({
      do: fc.constant('unmap' as const),
      page: fc.nat(15),
      pages: fc.integer({ min: 1, max: 8 }),
    }),
    fc.record({
      do: fc.constant('dma' as const),
      page: fc.nat(15),
      pages: fc.integer({ min: 1, max: 3 }),
    }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const mappings = new Mappings();
      mappings.request({ t: 0, ...attach() });
      /** First page, one past the last, used. */
      let model: { from: number; to: number; used: boolean }[] = [];
      let unused = 0;
      let unmaps = 0;
      for (const { do: what, page, pages } of steps) {
        const [from, to] = [page, page + pages];
        const meets = (one: { from: number; to: number }) => one.from < to && one.to > from;
        if (what === 'map') {
          // The IOMMU refuses to map what is mapped.
          if (model.some(meets)) continue;
          model.push({ from, to, used: false });
          mappings.request({ t: 0, ...map(page, pages) });
        } else if (what === 'unmap') {
          // And to unmap a part of a mapping.
          if (model.some((one) => meets(one) && (one.from < from || one.to > to))) continue;
          const gone = model.filter(meets);
          unmaps += gone.length;
          unused += gone.filter(({ used }) => !used).length;
          model = model.filter((one) => !meets(one));
          mappings.request({ t: 0, ...unmap(page, pages) });
        } else {
          for (const one of model) if (meets(one)) one.used = true;
          mappings.dma({
            ...{ t: 0, kind: 'dma', rid: RID, direction: 'read', iova: hex(page * PAGE) },
            ...{ bytes: pages * PAGE, pieces: [] },
          });
        }
      }
      const { report } = mappings;
      expect([report.unmaps, report.unused.count]).toEqual([unmaps, unused]);
      expect([report.left.count, report.left.unused, report.left.bytes]).toEqual([
        model.length,
        model.filter(({ used }) => !used).length,
        model.reduce((sum, one) => sum + (one.to - one.from) * PAGE, 0),
      ]);
    }),
  );
});
