import { describe, expect, it } from 'vitest';
import { expressCapability } from '../../../src/pci/capability/express.ts';
import { msiCapability } from '../../../src/pci/capability/msi.ts';
import { msixCapability } from '../../../src/pci/capability/msix.ts';
import { powerManagementCapability } from '../../../src/pci/capability/power-management.ts';
import { configSpace } from '../../../src/pci/config-space.ts';
import { ioBar, memoryBar, PciFunction, ram, reg32 } from '../../../src/pci/index.ts';

class Card extends PciFunction {
  static override readonly id = {
    vendor: 0x1b36,
    device: 0x5eb1,
    class: 0x010802,
    revision: 3,
    subsystem: 0x77,
  };
  static override readonly interrupts = { intx: true, msi: 4, msix: { vectors: 65, bar: 2 } };
  readonly bar0 = ioBar(16, { r: reg32(0) });
  readonly bar2 = memoryBar(16384, { m: ram(0, 4100) }, { width: 64, prefetchable: true });
}

const le16 = (bytes: Uint8Array, at: number) => (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8);
const le32 = (bytes: Uint8Array, at: number) =>
  (le16(bytes, at) | (le16(bytes, at + 2) << 16)) >>> 0;

/** Follows the list as a guest does. */
function walk(bytes: Uint8Array): { id: number; at: number }[] {
  const found: { id: number; at: number }[] = [];
  for (let at = bytes[0x34] ?? 0; at !== 0 && found.length < 48; at = bytes[at + 1] ?? 0) {
    found.push({ id: bytes[at] ?? 0, at });
  }
  return found;
}

describe('configuration space', () => {
  const { bytes, writable, capabilityOffsets } = configSpace(new Card());

  it('has the type 0 header of PCI 3.0 section 6.1', () => {
    expect(bytes).toHaveLength(4096);
    expect(le32(bytes, 0x00)).toBe(0x5eb1_1b36);
    expect(le32(bytes, 0x08)).toBe(0x0108_0203);
    expect(bytes[0x0e]).toBe(0);
    expect(le32(bytes, 0x2c)).toBe(0x0077_1b36);
    expect(bytes[0x3d]).toBe(1);
    expect(le16(bytes, 0x06) & (1 << 4)).not.toBe(0);
  });

  it('tells type and size of each BAR', () => {
    expect(le32(bytes, 0x10) & 3).toBe(1);
    expect(le32(writable, 0x10)).toBe(0xffff_fff0);
    expect(le32(bytes, 0x18)).toBe(0x4 | 0x8);
    expect(le32(writable, 0x18)).toBe(0xffff_c000);
    expect(le32(writable, 0x1c)).toBe(0xffff_ffff);
    expect(le32(writable, 0x14)).toBe(0);
  });

  it('links the capabilities, aligned to 4 bytes and apart from each other', () => {
    const list = walk(bytes);
    expect(list.map(({ id }) => id)).toEqual([0x01, 0x10, 0x05, 0x11]);
    expect(list.map(({ at }) => at)).toEqual(capabilityOffsets);
    for (const { at } of list) expect(at % 4).toBe(0);
  });

  it('places the MSI-X table on a page behind the registers', () => {
    const at = walk(bytes).find(({ id }) => id === 0x11)?.at ?? 0;
    expect(le16(bytes, at + 2) & 0x7ff).toBe(64);
    expect(le32(bytes, at + 4)).toBe(0x2000 | 2);
    expect(le32(bytes, at + 8)).toBe((0x2000 + 65 * 16) | 2);
  });

  it('of a conventional function has 256 bytes and no PCI Express', () => {
    class Old extends Card {
      static override readonly express = false;
    }
    const old = configSpace(new Old());
    expect(old.bytes).toHaveLength(256);
    expect(walk(old.bytes).map(({ id }) => id)).toEqual([0x05, 0x11]);
  });
});

describe('capabilities', () => {
  it('PCI Express: version 2 endpoint with function-level reset, or without', () => {
    const { bytes, writable } = expressCapability();
    expect(bytes).toHaveLength(0x3c);
    expect(le16(bytes, 2)).toBe(0x0002);
    expect(le32(bytes, 4) & (1 << 28)).not.toBe(0);
    expect(le16(writable ?? new Uint8Array(), 8) & 0x8000).toBe(0x8000);
    const without = expressCapability({ flr: false, maxPayload: 512 });
    expect(le32(without.bytes, 4) & (1 << 28)).toBe(0);
    expect(le32(without.bytes, 4) & 7).toBe(2);
  });

  it('MSI: 64-bit address, and data where section 6.8.1 has it', () => {
    const one = msiCapability({ vectors: 1 });
    expect(one.bytes).toHaveLength(14);
    expect(le16(one.bytes, 2)).toBe(0x0080);
    expect(le16(one.writable ?? new Uint8Array(), 0x0c)).toBe(0xffff);
    expect(msiCapability({ vectors: 32, maskable: true }).bytes).toHaveLength(24);
    expect(le16(msiCapability({ vectors: 32 }).bytes, 2) & 0xe).toBe(5 << 1);
    expect(msiCapability({ vectors: 1, address64: false }).bytes).toHaveLength(10);
    expect(() => msiCapability({ vectors: 3 })).toThrow(RangeError);
  });

  it('MSI-X refuses counts and places that do not fit', () => {
    const table = { bar: 0, offset: 0 };
    const pending = { bar: 0, offset: 0x8000 };
    expect(msixCapability({ vectors: 2048, table, pending }).bytes).toHaveLength(12);
    expect(() => msixCapability({ vectors: 2049, table, pending })).toThrow(/2048/);
    expect(() => msixCapability({ vectors: 1, table, pending: { bar: 6, offset: 0 } })).toThrow(
      /BAR/,
    );
    expect(() => msixCapability({ vectors: 1, table: { bar: 0, offset: 4 }, pending })).toThrow(
      /8/,
    );
  });

  it('power management: version 3, D0, and its state writable', () => {
    const { bytes, writable } = powerManagementCapability();
    expect(le16(bytes, 2) & 7).toBe(3);
    expect(le16(bytes, 4) & 3).toBe(0);
    expect(le16(bytes, 4) & 8).toBe(8);
    expect(le16(writable ?? new Uint8Array(), 4)).toBe(3);
    expect(le16(powerManagementCapability({ keepsState: false }).bytes, 4)).toBe(0);
  });
});
