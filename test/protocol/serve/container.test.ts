import { spawn, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { noSealedRam } from '../memory/sealed-bench.ts';
import { MIB, serviceBench, vmsOf } from './service-bench.ts';

const ends: AsyncDisposable[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end[Symbol.asyncDispose]();
});

/** What anybody needs for the other namespaces, where the host lets anybody: to be root in one of its own. */
const OWN_USERS = ['--user', '--map-root-user'];

const containers = [
  ['of root', [], process.getuid?.() === 0],
  ['with users of its own', OWN_USERS, spawnSync('unshare', [...OWN_USERS, 'true']).status === 0],
] as const;

/** Runs a program in mount, PID, network, IPC and host name namespaces of its own, and more. @returns its stdout */
function contained(more: readonly string[], ...command: readonly string[]): Promise<string> {
  const namespaces = [...more, '--mount', '--pid', '--fork', '--net', '--ipc', '--uts'];
  const named = ['sh', '-c', 'hostname container && exec "$@"', 'sh', ...command];
  const child = spawn('unshare', [...namespaces, '--', ...named], {
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: 50_000,
    killSignal: 'SIGKILL',
  });
  let stdout = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) =>
      code === 0
        ? resolve(stdout)
        : reject(new Error(`expected the container to end with 0, got ${code}`)),
    );
  });
}

describe.skipIf(noSealedRam() !== undefined)('a container in a VM’s place', () => {
  describe.each(containers)('%s', (_which, more, can) => {
    test.skipIf(!can)(
      'has a key slot, a memory and a device like a VM, beside a VM; its bytes are in DRAM as ciphertext alone',
      async () => {
        const bench = await serviceBench(vmsOf({ name: 'container' }, { name: 'vm' }));
        ends.push(bench);
        const { host } = bench.service;
        const { machine } = host.vm('container');
        const beside = await bench.vmm('vm');
        const secret = 'what a container has in its memory';
        beside.memory.write(beside.memory.gpa, Buffer.from(secret));
        const client = join(import.meta.dirname, 'container-client.ts');
        const socket = machine.functions[0]?.server.socketPath ?? '';
        const said = await contained(
          more,
          ...[
            process.execPath,
            client,
            socket,
            machine.sealed?.path ?? '',
            String(64 * MIB),
            secret,
          ],
        );
        expect(JSON.parse(said)).toEqual({ pid: 1, hostname: 'container', carried: secret });
        await machine.sealed?.flush();
        const { dramPages, dmaReads, dmaWrites } = (await machine.sealed?.counters()) ?? {};
        expect([dmaReads, dmaWrites]).toEqual([1, 1]);
        expect(dramPages).toBeGreaterThan(0);
        expect(Buffer.from(machine.sealed?.dram() ?? []).includes(secret.slice(0, 16))).toBe(false);
        // The VM beside it: nothing of it was touched, and no DMA was refused.
        expect(Buffer.from(beside.memory.read(beside.memory.gpa, secret.length)).toString()).toBe(
          secret,
        );
        expect(host.platform.iommu.faults.records).toEqual([]);
      },
    );
  });
});
