import { CapabilityId } from '../pci/capability/capability.ts';
import { Command, Header } from '../pci/config-space.ts';
import type { PciIdentity } from '../pci/endpoint.ts';
import { Region } from './region.ts';

export type CapabilityName = keyof typeof CapabilityId;

const MSI_ENABLE = 1 << 0;
const MSIX_ENABLE = 1 << 15;
const DEVICE_CAPABILITIES = 0x04;
const DEVICE_CONTROL = 0x08;
const FLR_CAPABLE = 1 << 28;
const INITIATE_FLR = 1 << 15;
const FIRST_CAPABILITY = 0x40;
/** More than fit between 0x40 and 0xff: a list that is longer is a loop. */
const CAPABILITIES_MAX = 48;

/** A device's configuration space: PCI Local Bus 3.0 section 6. */
export class ConfigRegion extends Region {
  /** Vendor, device, class and so on, as the header has them. */
  async identity(): Promise<PciIdentity> {
    const [id, revision, subsystem] = await Promise.all([
      this.read32(Header.vendor),
      this.read32(Header.revision),
      this.read32(Header.subsystemVendor),
    ]);
    return {
      vendor: id & 0xffff,
      device: id >>> 16,
      subsystemVendor: subsystem & 0xffff,
      subsystem: subsystem >>> 16,
      revision: revision & 0xff,
      classCode: revision >>> 8,
    };
  }

  /** @returns where a capability lies, or undefined; by the name or the number of its ID */
  async capability(id: CapabilityName | number): Promise<number | undefined> {
    const wanted = typeof id === 'number' ? id : CapabilityId[id];
    let at = (await this.read8(Header.capabilities)) & ~3;
    for (let hops = 0; at >= FIRST_CAPABILITY && hops < CAPABILITIES_MAX; hops++) {
      const header = await this.read16(at);
      if ((header & 0xff) === wanted) return at;
      at = (header >> 8) & ~3;
    }
    return undefined;
  }

  /**
   * Lets the function decode its BARs and make DMA, as a driver's probe does.
   * @param pin whether INTA# is used; else it is disabled
   */
  async enableFunction(pin: boolean): Promise<void> {
    const { ioSpace, memorySpace, busMaster, interruptDisable } = Command;
    const bits = ioSpace | memorySpace | busMaster | (pin ? 0 : interruptDisable);
    await this.write16(Header.command, bits);
  }

  /** Sets or clears the enable bit of MSI or MSI-X. @throws Error where there is no such capability */
  async enableMessages(kind: 'msi' | 'msix', enabled: boolean): Promise<void> {
    const at = await this.capability(kind);
    if (at === undefined) {
      throw new Error(`expected a capability for ${kind} interrupts in ${this.name}, got none`);
    }
    const bit = kind === 'msi' ? MSI_ENABLE : MSIX_ENABLE;
    const control = await this.read16(at + 2);
    await this.write16(at + 2, enabled ? control | bit : control & ~bit);
  }

  /** PCIe base specification section 6.6.2. @throws Error where the function has none */
  async functionLevelReset(): Promise<void> {
    const at = await this.capability('express');
    const capable =
      at !== undefined && ((await this.read32(at + DEVICE_CAPABILITIES)) & FLR_CAPABLE) !== 0;
    if (!capable) {
      throw new Error(
        'expected a function with function-level reset, got one without: reset() resets the device',
      );
    }
    const control = await this.read16(at + DEVICE_CONTROL);
    await this.write16(at + DEVICE_CONTROL, control | INITIATE_FLR);
  }
}
