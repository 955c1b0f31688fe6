import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Vmm } from '../../../src/client/vmm.ts';
import { parseServeConfig } from '../../../src/serve/config/parse-serve-config.ts';
import { ControlClient } from '../../../src/serve/control/control-client.ts';
import { Service, type ServiceOptions } from '../../../src/serve/service.ts';
import { ensureParts } from '../../../src/setup/ensure-parts.ts';

export const MIB = 2 ** 20;
export const GPA = 0x10_0000;

/** One edu a VM, at 00:04.0. */
export function vmsOf(
  ...vms: readonly { readonly name: string; readonly [field: string]: unknown }[]
) {
  const functions = [{ device: 'edu', at: '00:04.0' }];
  return JSON.stringify({ vms: vms.map((vm) => ({ size: '64M', functions, ...vm })) });
}

export interface Bench extends AsyncDisposable {
  readonly service: Service;
  readonly client: ControlClient;
  readonly directory: string;
  readonly log: string[];
  /** One more client. */
  connect(): ControlClient;
  /** A VMM for the first function of a VM, with the VM's memory. */
  vmm(name: string): Promise<Vmm>;
}

/** A service in this process, with a control client. */
export async function serviceBench(
  config: string,
  options: Partial<ServiceOptions> = {},
): Promise<Bench> {
  const end = new AsyncDisposableStack();
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-serve-'));
  end.defer(() => rmSync(directory, { recursive: true, force: true }));
  const log: string[] = [];
  const service = end.use(
    await Service.start({
      config: parseServeConfig(config, 'vms.yaml', directory),
      parts: await ensureParts(),
      accelerator: 'tcg',
      log: (message) => log.push(message),
      ...options,
    }),
  );
  const connect = () => end.use(new ControlClient(service.controlPath));
  const vmm = async (name: string) => {
    const { machine } = service.host.vm(name);
    const socket = machine.functions.at(-1)?.server.socketPath ?? '';
    const file = machine.sealed?.path;
    return end.use(
      await Vmm.connect(socket, {
        ...{ gpa: GPA, bytes: machine.bytes },
        ...(file === undefined ? {} : { file }),
      }),
    );
  };
  const client = connect();
  return {
    service,
    client,
    directory,
    log,
    connect,
    vmm,
    [Symbol.asyncDispose]: () => end.disposeAsync(),
  };
}

/** A file of its own in a directory. */
export function fileIn(directory: string, name: string, bytes: string | Uint8Array): string {
  const path = join(directory, name);
  writeFileSync(path, bytes);
  return path;
}
