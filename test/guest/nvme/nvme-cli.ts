import { Status } from '../../../src/devices/nvme/status.ts';
import type { DebianGuest } from './debian-guest.ts';

/** nvme-cli in a guest, by its commands without the word `nvme`. */
export class NvmeCli {
  readonly #guest: DebianGuest;

  constructor(guest: DebianGuest) {
    this.#guest = guest;
  }

  /** The status that the controller gave, 0 where it succeeded. @throws Error on another failure */
  async status(command: string): Promise<number> {
    const { exitCode, stdout, stderr } = await this.#guest.try(`nvme ${command}`);
    if (exitCode === 0) return Status.success;
    const said = `${stdout}${stderr}`;
    const [, field] = /^NVMe status: .*\(0x([0-9a-f]+)\)$/m.exec(said) ?? [];
    if (field === undefined) throw new Error(`nvme ${command}: expected a status, got ${said}`);
    return Number.parseInt(field, 16) & 0x7ff;
  }

  /** What it says. @throws Error where it fails */
  text(command: string): Promise<string> {
    return this.#guest.sh(`nvme ${command}`);
  }

  /** The same as JSON. */
  async json<Said = Record<string, string | number>>(command: string): Promise<Said> {
    return JSON.parse(await this.text(`${command} -o json`)) as Said;
  }
}
