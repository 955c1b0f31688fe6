import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

const CONNECTIONS_MAX = 16;
const REQUEST_MS = 5000;

/** Where metrics are served: a loopback address alone, for whoever is on this host may read them. */
export interface MetricsAddress {
  readonly host: '127.0.0.1' | '::1';
  readonly port: number;
}

/** `127.0.0.1:9273`, `[::1]:9273`; port 0 takes a free one. @throws RangeError */
export function parseMetricsAddress(text: string): MetricsAddress {
  const [, host, port = ''] = /^(127\.0\.0\.1|\[::1\]):(\d{1,5})$/.exec(text) ?? [];
  if (host === undefined || Number(port) > 65_535) {
    throw new RangeError(
      `expected a loopback address with a port, such as 127.0.0.1:9273 or [::1]:9273, got ${JSON.stringify(text)}`,
    );
  }
  return { host: host === '127.0.0.1' ? '127.0.0.1' : '::1', port: Number(port) };
}

/** `GET /metrics` over HTTP, on loopback; nothing else is answered. */
export class MetricsServer implements AsyncDisposable {
  readonly #server: Server;

  /** @throws Error where the port is taken */
  static async listen(
    address: MetricsAddress,
    text: () => Promise<string>,
  ): Promise<MetricsServer> {
    const server = createServer({ requestTimeout: REQUEST_MS, headersTimeout: REQUEST_MS });
    server.maxConnections = CONNECTIONS_MAX;
    server.on('request', (request, response) => {
      response.setHeader('Connection', 'close');
      if (request.method !== 'GET' || request.url !== '/metrics') {
        response.writeHead(404).end('expected GET /metrics\n');
        return;
      }
      text().then(
        (body) =>
          response
            .writeHead(200, { 'Content-Type': 'text/plain; version=0.0.4; charset=utf-8' })
            .end(body),
        (error: unknown) =>
          response.writeHead(500).end(`${error instanceof Error ? error.message : error}\n`),
      );
    });
    server.listen(address.port, address.host);
    await once(server, 'listening');
    return new MetricsServer(server);
  }

  private constructor(server: Server) {
    this.#server = server;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.#server, 'close');
    this.#server.close();
    this.#server.closeAllConnections();
    await closed;
  }
}
