import type { Command } from '../command.ts';
import { Status } from '../status.ts';
import type { AdminAnswer, AdminHost } from './admin-host.ts';
import { AsyncEvents, EventConfiguration, EventType, NoticeEvent } from './async-events.ts';
import { AdminOpcode, LogPage } from './capabilities.ts';
import { FeatureCommands } from './feature-commands.ts';
import { featureTable } from './feature-table.ts';
import { Features } from './features.ts';
import { FormatNvm } from './format.ts';
import { GetLogPage } from './get-log-page.ts';
import { Identify } from './identify.ts';
import type { PciVendor } from './identify-controller.ts';
import { ChangedNamespaces } from './log-pages/changed-namespaces.ts';
import { ErrorLog } from './log-pages/error-log.ts';
import { Health } from './log-pages/health.ts';
import { ResetCount } from './reset-count.ts';

/** Red Hat's, as QEMU's own devices have it. */
const QEMU_VENDOR: PciVendor = { vendor: 0x1b36, subsystemVendor: 0x1af4 };

/** The least transfer that MDTS can name: 0 there means no limit, 1 two pages. */
const TRANSFER_BYTES_LEAST = 8192;

/**
 * The admin command set (NVMe 1.4 §5) without what works on queues: those (Create and Delete I/O
 * Queue, Abort, Doorbell Buffer Config) the controller's core takes out before. Commands that OACS
 * and the like declare absent end with Invalid Command Opcode.
 */
export class AdminCommands {
  readonly features: Features;
  readonly events: AsyncEvents;
  readonly errorLog = new ErrorLog();
  readonly health: Health;
  readonly #identify: Identify;
  readonly #featureCommands: FeatureCommands;
  readonly #getLogPage: GetLogPage;
  readonly #format: FormatNvm;
  readonly #changedNamespaces = new ChangedNamespaces();
  readonly #resets = new ResetCount();

  /** @throws RangeError where the host's `transferBytesMax` is not a power of two from 8192. */
  constructor(host: AdminHost, pci: PciVendor = QEMU_VENDOR) {
    const { transferBytesMax } = host;
    if (transferBytesMax < TRANSFER_BYTES_LEAST || !Number.isInteger(Math.log2(transferBytesMax))) {
      throw new RangeError(
        `expected a transfer of a power of two from ${TRANSFER_BYTES_LEAST} bytes, got ${transferBytesMax}`,
      );
    }
    const changed = (nsid: number) => this.namespaceChanged(nsid);
    this.features = new Features(host);
    this.events = new AsyncEvents(host);
    this.health = new Health(this.events);
    this.#format = new FormatNvm(host, this.#resets, changed);
    this.#identify = new Identify(host, pci, this.#resets, (it) => this.#format.remaining(it));
    this.#featureCommands = new FeatureCommands(
      host,
      featureTable({
        host,
        features: this.features,
        events: this.events,
        health: this.health,
        announce: (newlyEnabled) => this.#announce(newlyEnabled),
        namespaceChanged: changed,
      }),
    );
    this.#getLogPage = new GetLogPage(host, this.events, {
      errors: this.errorLog,
      health: this.health,
      changedNamespaces: this.#changedNamespaces,
    });
  }

  /**
   * The command must not change until it is answered. Never throws for what a host asks. A promise
   * that ends after {@link reset} belongs to a queue that is gone: the core forgets its outcome.
   */
  execute(command: Command): AdminAnswer {
    switch (command.opcode) {
      case AdminOpcode.getLogPage:
        return this.#getLogPage.execute(command);
      case AdminOpcode.identify:
        return this.#identify.execute(command);
      case AdminOpcode.setFeatures:
        return this.#featureCommands.set(command);
      case AdminOpcode.getFeatures:
        return this.#featureCommands.get(command);
      case AdminOpcode.asyncEventRequest:
        return this.events.request(command);
      case AdminOpcode.formatNvm:
        return this.#format.execute(command);
      default:
        return { status: Status.invalidOpcode };
    }
  }

  /** The namespace's attributes changed (a file that grew, say): log 04h and its event. */
  namespaceChanged(nsid: number): void {
    this.#changedNamespaces.add(nsid);
    this.#raiseNamespacesChanged();
  }

  /**
   * A controller level reset (§7.3.2): outstanding event requests are forgotten, features are at
   * their defaults, a format stops at its next piece. Logs and write protection stay.
   */
  reset(): void {
    this.#resets.count();
    this.events.reset();
    this.features.reset();
    this.health.reset();
  }

  #announce(newlyEnabled: number): void {
    this.health.announce(newlyEnabled);
    if ((newlyEnabled & EventConfiguration.namespaceAttributes) === 0) return;
    if (!this.#changedNamespaces.empty) this.#raiseNamespacesChanged();
  }

  #raiseNamespacesChanged(): void {
    this.events.raise(EventType.notice, NoticeEvent.namespaceAttributes, LogPage.changedNamespaces);
  }
}
