/** `sealbus run` and `demo` from a shell: exit codes, streams, and nothing left behind. */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { RunPlace, repository } from '../protocol/cli/sealbus.ts';

const place = new RunPlace();
afterEach(() => {
  expect(place.left).toEqual([]);
});
afterAll(() => place[Symbol.dispose]());

const sh = (script: string) => ['run', '--', 'sh', '-c', script];

describe('sealbus run', () => {
  it('gives the command its stdin, and its stdout, stderr and exit code back', async () => {
    const bytes = randomBytes(2 ** 20);
    const script = 'cat; echo to stderr >&2; exit 7';
    const { code, stdout, stderr } = await place.run(sh(script), { stdin: bytes });
    expect(stdout.equals(bytes)).toBe(true);
    expect(stderr).toContain('to stderr\n');
    expect(code).toBe(7);
  });

  it('ends with 0 where the command does, with the device that was named in the guest', async () => {
    const lines = ['run', '--device', 'edu@00:09.0', '--', 'cat'];
    const { code, stdout } = await place.run([
      ...lines,
      '/sys/bus/pci/devices/0000:00:09.0/device',
    ]);
    expect([code, `${stdout}`]).toEqual([0, '0x11e8\n']);
  });

  it('ends with 124 after --timeout', async () => {
    const { code, stdout, stderr } = await place.run([
      ...['run', '--timeout', '1', '--', 'sh', '-c', 'echo before; sleep 60; echo after'],
    ]);
    expect([code, `${stdout}`]).toEqual([124, 'before\n']);
    expect(stderr).toContain('had not ended after 1 s');
  });

  it('ends with 255 where the guest panics, with what it said', async () => {
    const { code, stderr } = await place.run(sh('echo c > /proc/sysrq-trigger; sleep 60'));
    expect(code).toBe(255);
    expect(stderr).toMatch(/panicked: .*sysrq triggered crash/);
  });

  it('does not hang where its reader has left', async () => {
    const { signal, stdout } = await place.spawn([
      ...['sh', '-c', '"$@" | head -n 1', 'sh', process.execPath],
      ...[join(repository, 'src/cli/main.ts'), 'run', '--', 'yes', 'x'.repeat(100)],
    ]).ended;
    expect([signal, `${stdout}`]).toEqual([null, `${'x'.repeat(100)}\n`]);
  });
});

describe('sealbus demo --json', () => {
  it('prints one object, with everything in it, and ends with 0', async () => {
    const { code, stdout, stderr } = await place.run(['demo', '--json', '--out', place.path]);
    expect(code, stderr).toBe(0);
    const report = JSON.parse(`${stdout}`);
    expect(report).toMatchObject({
      guest: {
        kernel: expect.any(String),
        accel: expect.stringMatching(/^(kvm|tcg)$/),
        bootSeconds: expect.any(Number),
      },
      function: {
        rid: '0000:00:04.0',
        vendor: '0x1234',
        device: '0x11e8',
        driver: 'sealbus_edu',
      },
      memory: { mode: expect.stringMatching(/^(sealed|plain)$/), bytes: 512 * 2 ** 20 },
      dma: { digestMatches: true },
      dram: { markerHits: report.memory.mode === 'sealed' ? 0 : expect.any(Number) },
    });
    const { bytesRead, bytesWritten } = report.dma;
    expect(bytesRead).toBeGreaterThan(100_000);
    expect(bytesWritten).toBe(bytesRead);
    expect(report.dram.markerHitsDecrypted).toBeGreaterThan(0);
    expect(new Set(report.refused.map((one: { case: string }) => one.case)).size).toBe(5);
    for (const one of report.refused) {
      expect(one).toMatchObject({ bytesDisclosed: 0, bytesChanged: 0, faults: 1 });
    }
  });
});
