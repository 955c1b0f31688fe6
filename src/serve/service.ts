import { join } from 'node:path';
import { RunDirectory } from '../machine/run-directory.ts';
import type { ServeConfig } from './config/serve-config.ts';
import { ControlSocket } from './control/control-socket.ts';
import { controlHandler } from './control/operations.ts';
import { metricsText } from './record/metrics.ts';
import { type MetricsAddress, MetricsServer } from './record/metrics-server.ts';
import { RecordFile } from './record/record-file.ts';
import { VmHost, type VmHostOptions } from './vm-host.ts';

export interface ServiceOptions extends VmHostOptions {
  readonly config: ServeConfig;
  /** A file that the record is appended to. */
  readonly record?: string;
  /** Where a Prometheus server may read over HTTP. */
  readonly metrics?: MetricsAddress;
}

const CONTROL_SOCKET = 'control.sock';

/** The control sockets of this user's services that run now, the newest last. */
export function controlSockets(): string[] {
  return RunDirectory.liveWith(CONTROL_SOCKET);
}

/** A host with its control socket, its record and its metrics: all of `sealbus serve`. */
export class Service implements AsyncDisposable {
  readonly host: VmHost;
  readonly controlPath: string;
  /** Of the metrics over HTTP. */
  readonly metricsPort: number | undefined;
  readonly #end: AsyncDisposableStack;

  /** @throws ConfigError; FuseUnavailable; Error where record or metrics cannot be had */
  static async start(options: ServiceOptions): Promise<Service> {
    const { config, record, metrics } = options;
    await using starting = new AsyncDisposableStack();
    const log = options.log ?? ((message: string) => process.stderr.write(`${message}\n`));
    // Before the host, for it goes after it: the VMs' ends are in the record.
    const file = record === undefined ? undefined : starting.use(new RecordFile(record, log));
    const host = starting.use(await VmHost.start(options));
    const { run } = host.platform;
    if (file !== undefined) host.recorder.onLine((line) => file.write(line));
    let socket: ControlSocket | undefined;
    const extra = () => ({
      control_clients: { value: socket?.clients ?? 0, help: 'Clients at the control socket now.' },
      control_connections_total: {
        value: socket?.counters.clients ?? 0,
        help: 'Clients that came to the control socket.',
      },
      control_refused_total: {
        value: socket?.counters.refused ?? 0,
        help: 'Clients that the control socket turned away: of other users, or too many.',
      },
      ...(file && {
        record_lines_lost_total: {
          value: file.lost,
          help: 'Lines of the record that no file has.',
        },
      }),
    });
    await host.addAll(config);
    const http =
      metrics &&
      starting.use(await MetricsServer.listen(metrics, () => metricsText(host, extra())));
    socket = starting.use(
      new ControlSocket(join(run.path, CONTROL_SOCKET), controlHandler(host, extra), log),
    );
    return new Service(host, socket.path, http?.port, starting.move());
  }

  private constructor(
    host: VmHost,
    controlPath: string,
    metricsPort: number | undefined,
    end: AsyncDisposableStack,
  ) {
    this.host = host;
    this.controlPath = controlPath;
    this.metricsPort = metricsPort;
    this.#end = end;
  }

  /** Nobody is let in any more, then every VM ends, then what they stood on. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#end.disposeAsync();
  }
}
