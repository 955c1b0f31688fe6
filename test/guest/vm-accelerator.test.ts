/** KVM or TCG: the verdict comes from a real boot, in bounded time, and is remembered. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { ensureParts } from '../../src/setup/ensure-parts.ts';
import type { Parts } from '../../src/setup/parts.ts';
import { chooseAccelerator } from '../../src/vm/accelerator.ts';
import { bootGuest } from '../../src/vm/guest.ts';

let parts: Parts;
let cache: string;
beforeAll(async () => {
  parts = await ensureParts();
  cache = mkdtempSync(join(tmpdir(), 'sealbus-accelerator-'));
});
afterAll(() => rmSync(cache, { recursive: true, force: true }));

it('is found within ten seconds, with a reason, and boots', async () => {
  const before = performance.now();
  const verdict = await chooseAccelerator(parts, 'auto', cache);
  expect(performance.now() - before).toBeLessThan(10_000);
  expect(verdict.why).not.toBe('');
  await using vm = await bootGuest(parts, { accelerator: verdict.accelerator });
  expect(await vm.check(['echo', 'up'])).toBe('up\n');
});

it('is the same the second time, at once, where a probe was needed', async () => {
  const first = await chooseAccelerator(parts, 'auto', cache);
  const before = performance.now();
  expect(await chooseAccelerator(parts, 'auto', cache)).toEqual(first);
  expect(performance.now() - before).toBeLessThan(200);
});

it('is not taken from a cache that is broken or of another boot', async () => {
  const first = await chooseAccelerator(parts, 'auto', cache);
  for (const text of ['{', '{"key":"other","accelerator":"kvm","why":"a guess"}']) {
    writeFileSync(join(cache, 'accelerator.json'), text);
    expect((await chooseAccelerator(parts, 'auto', cache)).accelerator).toBe(first.accelerator);
  }
});

it('is as asked for: TCG always, KVM only where it works', async () => {
  expect((await chooseAccelerator(parts, 'tcg', cache)).accelerator).toBe('tcg');
  const auto = await chooseAccelerator(parts, 'auto', cache);
  const kvm = chooseAccelerator(parts, 'kvm', cache);
  if (auto.accelerator === 'kvm') expect((await kvm).accelerator).toBe('kvm');
  else await expect(kvm).rejects.toThrow(/expected KVM to work.*\w/s);
});
