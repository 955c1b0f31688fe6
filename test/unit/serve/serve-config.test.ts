import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseRequesterId } from '../../../src/pci/requester-id.ts';
import { ConfigErrors } from '../../../src/serve/config/config-place.ts';
import { parseServeConfig } from '../../../src/serve/config/parse-serve-config.ts';

const parse = (text: string) => parseServeConfig(text, 'vms.yaml', '/etc/vms');

/** What is wrong with a text, without the file's name. */
function wrong(text: string): string[] {
  try {
    parse(text);
  } catch (error) {
    if (error instanceof ConfigErrors) {
      return error.errors.map(({ message }) => message.replace(/^vms\.yaml:/, ''));
    }
    throw error;
  }
  return [];
}

const whole = `# two VMs
vms:
  - name: alpha
    size: 1G
    key: { descriptor: 5, bits: 128 }
    slot: 17
    iommu: virtio
    cpus: 4
    boot: 00:02.0
    functions:
      - device: nvme
        at: 00:02.0
        disks: [root.img, { file: /srv/data.img, read-only: true }]
      - { device: "../devices/widget.ts#Widget", at: "00:05.0", socket: widget.sock }
  - name: beta
    memory: plain
    functions:
      - { device: edu, at: 00:04.0 }
`;

test('all that can be said is read, with defaults for what is left out', () => {
  const { vms } = parse(whole);
  expect(vms).toMatchObject([
    {
      ...{ name: 'alpha', bytes: 2 ** 30, memory: 'sealed', iommu: 'virtio', cpus: 4 },
      key: { bits: 128, descriptor: 5 },
      slot: { value: 17 },
      boot: { value: parseRequesterId('00:02.0') },
      functions: [
        {
          device: {
            kind: 'nvme',
            disks: [
              { file: '/etc/vms/root.img', readOnly: false },
              { file: '/srv/data.img', readOnly: true },
            ],
          },
        },
        {
          device: { kind: 'module', file: '/etc/devices/widget.ts', exportName: 'Widget' },
          at: { value: parseRequesterId('00:05.0') },
          socket: { value: '/etc/vms/widget.sock' },
        },
      ],
    },
    {
      ...{ name: 'beta', bytes: 512 * 2 ** 20, memory: 'plain', iommu: 'identity', cpus: 2 },
      key: { bits: 256, descriptor: undefined },
      ...{ slot: undefined, boot: undefined },
      functions: [{ device: { kind: 'edu' }, socket: undefined }],
    },
  ]);
});

test('a function may be behind a root port of its VM', () => {
  const [vm] = parse(`vms:
  - name: a
    root-ports: 2
    functions:
      - { device: edu, at: "02:00.0" }
      - { device: edu, at: 00:02.0 }
`).vms;
  expect(vm).toMatchObject({
    rootPorts: 2,
    functions: [
      { at: { value: parseRequesterId('02:00.0') } },
      { at: { value: parseRequesterId('00:02.0') } },
    ],
  });
  expect(parse('vms: [{ name: a }]').vms[0]?.rootPorts).toBe(0);
});

test('JSON is read as well', () => {
  const json = JSON.stringify({
    vms: [{ name: 'a', functions: [{ device: 'edu', at: '00:04.0' }] }],
  });
  expect(parse(json).vms).toMatchObject([{ name: 'a', functions: [{ device: { kind: 'edu' } }] }]);
});

describe('what is wrong is named by its line and its field:', () => {
  const vm = (lines: string) => `vms:\n  - name: a\n${lines}`;
  test.each([
    ['no YAML', 'vms: [', /^1: expected YAML, got: /],
    ['no VMs', 'vms: []', /^1: vms: expected one VM or more, got none$/],
    ['something else', '- 1', /^1: expected fields \(subsystems, vms\), got a list$/],
    ['no name', 'vms:\n  - size: 1G', /^2: vms\[0\]: expected a name, got none$/],
    ['a bad name', 'vms:\n  - name: A b', /^2: vms\[0\]\.name: expected a name of .*got "A b"$/],
    [
      'an unknown field',
      vm('    sise: 1G'),
      /^3: vms\[0\]\.sise: expected one of .*unknown field$/,
    ],
    ['a field twice', vm('    name: b'), /^3: vms\[0\]\.name: expected name once, got it again$/],
    ['a size of nothing', vm('    size: 3'), /^3: vms\[0\]\.size: expected a size in whole MiB/],
    ['a slot too high', vm('    slot: 4096'), /^3: vms\[0\]\.slot: .*from 0 to 4095, got 4096$/],
    [
      'a key in the file',
      vm('    key: 0123abcd'),
      /^3: vms\[0\]\.key: expected generate, got "0123abcd"$/,
    ],
    [
      'a key of 192 bits',
      vm('    key: {bits: 192}'),
      /^3: vms\[0\]\.key\.bits: expected 128 or 256/,
    ],
    ['stdin as a key', vm('    key: {descriptor: 0}'), /^3: vms\[0\]\.key\.descriptor: .*from 3/],
    [
      'too many root ports',
      vm('    root-ports: 17'),
      /^3: vms\[0\]\.root-ports: .*from 0 to 16, got 17$/,
    ],
    ['an alias', vm('    size: &x 1G\n    cpus: *x'), /^4: vms\[0\]\.cpus: .*an alias/],
  ])('%s', (_, text, words) => {
    expect(wrong(text)).toEqual([expect.stringMatching(words)]);
  });

  const functions = (...lines: string[]) =>
    vm(`    functions:\n${lines.map((line) => `      - {${line}}`).join('\n')}`);
  test.each([
    [
      'a device that is none',
      functions('device: gpu, at: 00:04.0'),
      /^4: vms\[0\]\.functions\[0\]\.device: expected edu, nvme or FILE/,
    ],
    ['no place', functions('device: edu'), /^4: vms\[0\]\.functions\[0\]: expected a place/],
    [
      'a place off bus 0',
      functions('device: edu, at: 01:00.0'),
      /^4: .*\.at: expected a place on bus 0/,
    ],
    [
      'a place behind a root port that is not there',
      `${functions('device: edu, at: 03:00.0')}\n    root-ports: 2`,
      /^4: .*\.at: expected a place on bus 0 .*\(the machine has 2, .*\), got 0000:03:00\.0$/,
    ],
    [
      'a place on a root port’s bus that no port leads to',
      `${functions('device: edu, at: 01:01.0')}\n    root-ports: 2`,
      /^4: .*\.at: expected a place on bus 0, .*or behind a root port/,
    ],
    [
      'a root port’s own place',
      `${functions('device: edu, at: 00:01.0')}\n    root-ports: 1`,
      /^4: .*\.at: expected a free place, got 0000:00:01\.0, where the machine's root ports are$/,
    ],
    [
      'another VM’s segment',
      functions('device: edu, at: "0001:00:04.0"'),
      /^4: .*\.at: expected a place on bus 0/,
    ],
    ['the host bridge', functions('device: edu, at: 00:00.0'), /^4: .*\.at: expected a free place/],
    [
      'a function without function 0',
      functions('device: edu, at: 00:04.1'),
      /^4: .*\.at: expected a function 0/,
    ],
    [
      'disks of an edu',
      functions('device: edu, at: 00:04.0, disks: [a]'),
      /^4: .*\.disks: expected disks of an nvme alone/,
    ],
    [
      'an nvme without disks',
      functions('device: nvme, at: 00:04.0'),
      /^4: .*expected disks of the nvme/,
    ],
    [
      'a socket path too long',
      functions(`device: edu, at: 00:04.0, socket: ${'s'.repeat(120)}`),
      /^4: .*\.socket: expected a socket path of 1 to 107 bytes/,
    ],
    [
      'the same place twice',
      functions('device: edu, at: 00:04.0', 'device: edu, at: 00:04.0'),
      /^5: vms\[0\]\.functions\[1\]\.at: expected a place of its own, got 00:04\.0, which is vms\[0\]\.functions\[0\]\.at's \(line 4\)$/,
    ],
    [
      'the same socket twice',
      functions('device: edu, at: 00:04.0, socket: x', 'device: edu, at: 00:05.0, socket: ./x'),
      /^5: .*\.socket: expected a socket path of its own/,
    ],
    [
      'a way to find a slot that is none',
      functions('device: edu, at: 00:04.0, slot-from: guest'),
      /^4: vms\[0\]\.functions\[0\]\.slot-from: expected device-table or translation, got/,
    ],
    [
      'slots by the translation where the guest makes it',
      `${functions('device: edu, at: 00:04.0, slot-from: translation')}\n    iommu: virtio`,
      /^4: vms\[0\]\.functions\[0\]\.slot-from: expected iommu identity/,
    ],
    [
      'a boot from what is no disk',
      `${functions('device: edu, at: 00:04.0')}\n    boot: 00:04.0`,
      /^5: vms\[0\]\.boot: expected an nvme to boot from at 00:04\.0/,
    ],
    [
      'a place that is the IOMMU’s',
      `${functions('device: edu, at: 00:03.0')}\n    iommu: virtio`,
      /^4: .*the virtio-iommu's/,
    ],
  ])('%s', (_, text, words) => {
    expect(wrong(text)).toEqual([expect.stringMatching(words)]);
  });

  test('a slot that two VMs have, a name, a descriptor', () => {
    const two = (line: string, name = 'b') =>
      `vms:\n  - name: a\n    ${line}\n  - name: ${name}\n    ${line}`;
    expect(wrong(two('slot: 5'))).toEqual([
      "5: vms[1].slot: expected a key slot of its own, got slot 5, which is vms[0].slot's (line 3)",
    ]);
    expect(wrong(two('cpus: 1', 'a'))).toEqual([
      expect.stringMatching(/^4: vms\[1\]: .*a name of its own, got a/),
    ]);
    expect(wrong(two('key: {descriptor: 5}'))).toEqual([
      expect.stringMatching(/^5: vms\[1\]\.key: .*a descriptor of its own, got 5/),
    ]);
  });

  test('the same place in two VMs is nothing wrong', () => {
    const vm = (name: string) => ({ name, functions: [{ device: 'edu', at: '00:04.0' }] });
    expect(parse(JSON.stringify({ vms: [vm('a'), vm('b')] })).vms).toHaveLength(2);
  });

  test.each([
    ['unknown fields', `{${Array.from({ length: 45_000 }, (_, at) => `f${at}`)}}`],
    ['one field again and again', `{${Array.from({ length: 60_000 }, () => 'vms')}}`],
    ['anchors', '&a '.repeat(80_000)],
    ['VMs without a name', `vms: [${'{},'.repeat(4000)}]`],
    ['VMs of one name', `vms: [${'{name: a},'.repeat(4000)}]`],
  ])('of %s without end some are told, and that there are more', (_, text) => {
    expect(wrong(text)).toHaveLength(100);
    expect(() => parse(text)).toThrow(/^(.+\n){100}and more: mend these first$/);
  });

  test('all of it is told at once', () => {
    expect(wrong('vms:\n  - name: a\n    cpus: 0\n    memory: wet\n    slots: 1')).toHaveLength(3);
  });
});

test('whatever the text is, it is read or refused by line', () => {
  const words = fc.constantFrom(
    ...[
      'vms',
      'name',
      ':',
      ' ',
      '\n',
      '  - ',
      '- ',
      '[',
      ']',
      '{',
      '}',
      '&a',
      '*a',
      '!!x',
      '"',
      "'",
    ],
    ...[
      'a',
      'size',
      '1G',
      'key',
      'functions',
      'device',
      'edu',
      'at',
      '00:04.0',
      '\t',
      '#',
      '|',
      '\0',
      '—',
    ],
  );
  fc.assert(
    fc.property(fc.array(words, { maxLength: 60 }), (parts) => {
      for (const message of wrong(parts.join(''))) expect(message).toMatch(/^\d+: /);
    }),
  );
  fc.assert(
    fc.property(fc.json(), (json) => {
      for (const message of wrong(json)) expect(message).toMatch(/^1: /);
    }),
  );
});

test('a text that goes on for ever, or unfolds to one, is refused', () => {
  expect(wrong(`vms: ${'x'.repeat(2 ** 21)}`)).toEqual([
    expect.stringMatching(/at most 1048576 bytes/),
  ]);
  const bomb = `a: &a [x,x,x,x,x,x,x,x]\n${Array.from(
    { length: 20 },
    (_, i) =>
      `b${i}: &b${i} [${Array(8)
        .fill(i === 0 ? '*a' : `*b${i - 1}`)
        .join(',')}]`,
  ).join('\n')}\nvms: *b19`;
  expect(wrong(bomb).length).toBeGreaterThan(0);
});
