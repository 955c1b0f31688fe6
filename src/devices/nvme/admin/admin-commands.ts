import type { Command } from '../command.ts';
import { Status } from '../status.ts';
import type { AdminAnswer, AdminHost } from './admin-host.ts';
import { AsyncEvents } from './async-events.ts';
import { Features } from './features.ts';
import { ErrorLog } from './log-pages/error-log.ts';
import { Health } from './log-pages/health.ts';

/**
 * The admin command set (NVMe 1.4 §5) without what works on queues: those (Create and Delete I/O
 * Queue, Abort, Doorbell Buffer Config) the controller's core takes out before.
 */
export class AdminCommands {
  readonly features: Features;
  readonly events: AsyncEvents;
  readonly errorLog = new ErrorLog();
  readonly health = new Health();

  constructor(host: AdminHost) {
    this.features = new Features(host);
    this.events = new AsyncEvents(host);
  }

  /**
   * Must be called with a command that does not change. Never throws for what a host asks. A promise
   * that ends after {@link reset} belongs to a queue that is gone: the core forgets its outcome.
   */
  execute(_command: Command): AdminAnswer {
    return { status: Status.invalidOpcode };
  }

  /** The namespace's attributes changed (a file that grew, say): log 04h and its event. */
  namespaceChanged(_nsid: number): void {}

  /** A controller level reset: outstanding event requests are forgotten, features at their defaults. */
  reset(): void {}
}
