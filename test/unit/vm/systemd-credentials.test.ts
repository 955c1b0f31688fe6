import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { credentialArguments } from '../../../src/vm/systemd-credentials.ts';
import { VmError } from '../../../src/vm/vm-error.ts';

const place = mkdtempSync(join(tmpdir(), 'sealbus-credentials-'));
afterAll(() => rmSync(place, { recursive: true }));
const file = join(place, 'a,b');
writeFileSync(file, Buffer.alloc(2 ** 20));

describe('credentials for a guest', () => {
  it('a file is an item of the firmware configuration, text an OEM string', () => {
    const text = '[Unit]\nDescription=a, b=c\n';
    const args = credentialArguments([
      { name: 'agent', file },
      { name: 'systemd.extra-unit.x.service', text: '' },
    ]);
    expect(args.slice(0, 2)).toEqual([
      '-fw_cfg',
      `name=opt/io.systemd.credentials/agent,file=${place}/a,,b`,
    ]);
    const [, option = ''] = credentialArguments([{ name: 'x', text }]);
    const [, , encoded = ''] =
      /^type=11,value=io\.systemd\.credential\.binary:(\w+)=([^,]*)$/.exec(option) ?? [];
    expect(Buffer.from(encoded, 'base64').toString()).toBe(text);
  });

  it.each([
    ['a name with a slash', [{ name: 'a/b', text: '' }], /name of a systemd credential/],
    ['no name', [{ name: '', text: '' }], /name of a systemd credential/],
    ['a name too long for QEMU', [{ name: 'n'.repeat(29), file }], /at most 28 characters/],
    [
      'more than systemd keeps',
      [
        { name: 'a', file },
        { name: 'b', text: 'c' },
      ],
      /at most 1048576/,
    ],
  ])('refuses %s', (_what, credentials, words) => {
    expect(() => credentialArguments(credentials)).toThrow(VmError);
    expect(() => credentialArguments(credentials)).toThrow(words);
  });

  it('takes the longest name that QEMU does', () => {
    expect(() => credentialArguments([{ name: 'n'.repeat(28), file }])).not.toThrow();
  });
});
