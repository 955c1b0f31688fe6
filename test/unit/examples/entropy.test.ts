import { describe, expect, it } from 'vitest';
import { Entropy } from '../../../examples/entropy/entropy.ts';
import { VERSION_1, VirtioBench } from '../virtio/bench.ts';
import { DriverQueue } from '../virtio/driver-queue.ts';

/** A device whose bytes are the count of those before. */
function counting() {
  let made = 0;
  const link = new VirtioBench(
    new Entropy((length) => Uint8Array.from({ length }, () => made++ & 0xff)),
  );
  link.negotiate([VERSION_1]);
  const requests = new DriverQueue(link, { size: 8, features: [VERSION_1] });
  link.ready();
  return { link, requests };
}

describe('the entropy device', () => {
  it('has the identity that virtio-rng binds to', () => {
    const { vendor, device } = counting().link.device.identity;
    expect([vendor, device]).toEqual([0x1af4, 0x1044]);
  });

  it('fills buffers in their order, and says how far', () => {
    const { link, requests } = counting();
    requests.add(
      [],
      [
        { address: 0x3000, length: 3 },
        { address: 0x3100, length: 5 },
      ],
    );
    requests.add([], [{ address: 0x3200, length: 4 }]);
    requests.kick();
    expect(requests.reap().map(({ length }) => length)).toEqual([8, 4]);
    const at = (address: number, length: number) => [
      ...link.memory.subarray(address, address + length),
    ];
    expect(at(0x3000, 4)).toEqual([0, 1, 2, 0]);
    expect(at(0x3100, 6)).toEqual([3, 4, 5, 6, 7, 0]);
    expect(at(0x3200, 5)).toEqual([8, 9, 10, 11, 0]);
    expect(link.interrupts.messages).toEqual([0]);
  });

  it('fills 4096 bytes of a buffer that is longer', () => {
    const { link, requests } = counting();
    link.memory.fill(0xee, 0x3000);
    requests.add([], [{ address: 0x3000, length: 0x4000 }]);
    requests.kick();
    expect(requests.reap()[0]?.length).toBe(4096);
    expect(link.memory[0x3fff]).toBe(0xff);
    expect(link.memory[0x4000]).toBe(0xee);
  });

  it('is random by itself', () => {
    const link = new VirtioBench(new Entropy());
    link.negotiate([VERSION_1]);
    const requests = new DriverQueue(link, { size: 8, features: [VERSION_1] });
    link.ready();
    requests.add([], [{ address: 0x3000, length: 2048 }]);
    requests.kick();
    expect(requests.reap()[0]?.length).toBe(2048);
    expect(new Set(link.memory.subarray(0x3000, 0x3800)).size).toBeGreaterThan(200);
  });
});
