import { describe, expect, test } from 'vitest';
import { ConfigErrors } from '../../../src/serve/config/config-place.ts';
import { parseServeConfig } from '../../../src/serve/config/parse-serve-config.ts';
import type { KnownSubsystem } from '../../../src/serve/config/subsystem-conflicts.ts';

const parse = (text: string, there: readonly KnownSubsystem[] = []) =>
  parseServeConfig(text, 'vms.yaml', '/etc/vms', there);

/** What is wrong with a text, without the file's name. */
function wrong(text: string, there: readonly KnownSubsystem[] = []): string[] {
  try {
    parse(text, there);
  } catch (error) {
    if (error instanceof ConfigErrors) {
      return error.errors.map(({ message }) => message.replace(/^vms\.yaml:/, ''));
    }
    throw error;
  }
  return [];
}

const whole = `subsystems:
  - name: pool
    virtual-functions: 8
    namespaces:
      - { file: system.img, function: 0 }
      - { file: /srv/a.img, function: 1 }
      - { file: spare.img, read-only: true }
      - bare.img
vms:
  - name: alpha
    boot: 00:04.0
    functions:
      - { device: nvme, subsystem: pool, function: 0, at: 00:04.0 }
      - { device: nvme, subsystem: pool, function: 1, at: 00:05.0, socket: one.sock }
`;

test('subsystems and the functions that VMs have of them are read', () => {
  const { subsystems, vms } = parse(whole);
  expect(subsystems).toMatchObject([
    {
      ...{ name: 'pool', virtualFunctions: 8 },
      namespaces: [
        { file: '/etc/vms/system.img', readOnly: false, function: { value: 0 } },
        { file: '/srv/a.img', readOnly: false, function: { value: 1 } },
        { file: '/etc/vms/spare.img', readOnly: true, function: undefined },
        { file: '/etc/vms/bare.img', readOnly: false, function: undefined },
      ],
    },
  ]);
  expect(vms[0]?.functions).toMatchObject([
    {
      device: { kind: 'subsystem-function', subsystem: { value: 'pool' }, number: { value: 0 } },
    },
    { device: { number: { value: 1 } }, socket: { value: '/etc/vms/one.sock' } },
  ]);
});

test('without a word of subsystems there are none', () => {
  expect(parse('vms: [{name: a}]').subsystems).toEqual([]);
});

const subsystem = (...lines: string[]) =>
  `subsystems:\n  - ${lines.join('\n    ')}\nvms: [{name: a}]`;

describe('what is wrong with a subsystem is named by its line and its field:', () => {
  const pool = ['name: pool', 'virtual-functions: 1'];
  const nothing = 'namespaces: [a.img]';
  test.each([
    ['no list', 'subsystems: 3\nvms: [{name: a}]', /^1: subsystems: expected a list, got 3$/],
    [
      'no name',
      subsystem('virtual-functions: 1', nothing),
      /^2: subsystems\[0\]: expected a name, got none$/,
    ],
    [
      'a name that is no serial number',
      subsystem(`name: ${'p'.repeat(21)}`, 'virtual-functions: 1', nothing),
      /^2: subsystems\[0\]\.name: expected a name of 1 to 20 /,
    ],
    [
      'no number of functions',
      subsystem('name: pool', nothing),
      /^2: subsystems\[0\]: expected a number of functions in virtual-functions, got none$/,
    ],
    [
      'more virtual functions than there may be',
      subsystem('name: pool', 'virtual-functions: 65', nothing),
      /^3: subsystems\[0\]\.virtual-functions: .*from 0 to 64, got 65$/,
    ],
    ['an unknown field', subsystem(...pool, nothing, 'size: 1G'), /^5: subsystems\[0\]\.size: /],
    [
      'no namespaces',
      subsystem(...pool),
      /^2: subsystems\[0\]: expected one namespace or more, got none$/,
    ],
    [
      'an empty list of them',
      subsystem(...pool, 'namespaces: []'),
      /^4: subsystems\[0\]\.namespaces: expected one namespace or more/,
    ],
    [
      'more than 256 namespaces',
      subsystem(...pool, `namespaces: [${Array.from({ length: 257 }, (_, i) => `d${i}`)}]`),
      /^4: subsystems\[0\]\.namespaces: expected at most 256 of these, got 257$/,
    ],
    [
      'a namespace without a file',
      subsystem(...pool, 'namespaces:', '  - {function: 1}'),
      /^5: subsystems\[0\]\.namespaces\[0\]: expected a file, got none$/,
    ],
    [
      'a namespace of a function that is not there',
      subsystem(...pool, 'namespaces:', '  - a.img', '  - {file: b.img, function: 2}'),
      /^6: subsystems\[0\]\.namespaces\[1\]\.function: expected a function of pool, 0 to 1, got 2$/,
    ],
    [
      'a namespace of a function that no subsystem has',
      subsystem(...pool, 'namespaces:', '  - {file: b.img, function: -1}'),
      /^5: subsystems\[0\]\.namespaces\[0\]\.function: .*from 0 to 64, got -1$/,
    ],
    [
      'a file twice',
      subsystem(...pool, 'namespaces:', '  - a.img', '  - {file: ./a.img, read-only: true}'),
      /^6: subsystems\[0\]\.namespaces\[1\]: expected a file of its own, got \/etc\/vms\/a\.img, which is subsystems\[0\]\.namespaces\[0\]'s \(line 5\)$/,
    ],
    [
      'a name twice',
      subsystem(...pool, nothing).replace(
        'vms:',
        '  - name: pool\n    virtual-functions: 0\n    namespaces: [b.img]\nvms:',
      ),
      /^5: subsystems\[1\]: expected a name of its own, got pool, which is subsystems\[0\]'s \(line 2\)$/,
    ],
  ])('%s', (_, text, words) => {
    expect(wrong(text)).toEqual([expect.stringMatching(words)]);
  });

  test('a file may be read by several', () => {
    const read = '{file: a.img, read-only: true}';
    expect(wrong(subsystem(...pool, `namespaces: [${read}, ${read}]`))).toEqual([]);
  });
});

describe('what is wrong with a function of a subsystem:', () => {
  const functions = (...lines: string[]) =>
    [
      'subsystems: [{name: pool, virtual-functions: 2, namespaces: [a.img]}]',
      'vms:\n  - name: a\n    functions:',
      ...lines.map((line) => `      - {${line}}`),
    ].join('\n');
  test.each([
    [
      'an unknown subsystem',
      functions('device: nvme, subsystem: pond, function: 1, at: 00:04.0'),
      /^5: vms\[0\]\.functions\[0\]\.subsystem: expected the name of a subsystem \(pool\), got pond$/,
    ],
    [
      'a function out of range',
      functions('device: nvme, subsystem: pool, function: 3, at: 00:04.0'),
      /^5: vms\[0\]\.functions\[0\]\.function: expected a function of pool, 0 to 2, got 3$/,
    ],
    [
      'the same function twice',
      functions(
        'device: nvme, subsystem: pool, function: 1, at: 00:04.0',
        'device: nvme, subsystem: pool, function: 1, at: 00:05.0',
      ),
      /^6: vms\[0\]\.functions\[1\]\.function: expected a function of its own, got function 1 of pool, which is vms\[0\]\.functions\[0\]\.function's \(line 5\)$/,
    ],
    [
      'a subsystem without a function',
      functions('device: nvme, subsystem: pool, at: 00:04.0'),
      /^5: vms\[0\]\.functions\[0\]: expected the number of a function .*got none$/,
    ],
    [
      'a function without a subsystem',
      functions('device: nvme, function: 1, at: 00:04.0'),
      /^5: vms\[0\]\.functions\[0\]: expected the subsystem .*got none$/,
    ],
    [
      'disks together with a subsystem',
      functions('device: nvme, subsystem: pool, function: 1, disks: [b.img], at: 00:04.0'),
      /^5: vms\[0\]\.functions\[0\]\.disks: expected disks, or a function of a subsystem, got both$/,
    ],
    [
      'a subsystem of what is no nvme',
      functions('device: edu, subsystem: pool, at: 00:04.0'),
      /^5: vms\[0\]\.functions\[0\]\.subsystem: expected subsystem of an nvme alone, got subsystem of edu$/,
    ],
    [
      'a disk that is a namespace already',
      functions('device: nvme, disks: [a.img], at: 00:04.0'),
      /^5: vms\[0\]\.functions\[0\]\.disks\[0\]: expected a file of its own, got .*which is subsystems\[0\]\.namespaces\[0\]'s \(line 1\)$/,
    ],
  ])('%s', (_, text, words) => {
    expect(wrong(text)).toEqual([expect.stringMatching(words)]);
  });

  test('one function in two VMs, while another is in each', () => {
    const vm = (name: string, number: number) =>
      `  - {name: ${name}, functions: [{device: nvme, subsystem: pool, function: ${number}, at: 00:04.0}]}`;
    const two = (number: number) =>
      [
        'subsystems: [{name: pool, virtual-functions: 2, namespaces: [a.img]}]',
        'vms:',
        ...[vm('a', 1), vm('b', number)],
      ].join('\n');
    expect(wrong(two(1))).toEqual([
      expect.stringMatching(/^4: vms\[1\]\.functions\[0\]\.function: .*\(line 3\)$/),
    ]);
    expect(wrong(two(2))).toEqual([]);
  });
});

describe('subsystems that are there already', () => {
  const there = [{ name: 'pool', virtualFunctions: 3 }];
  const vms = (number: number) =>
    `vms: [{name: a, functions: [{device: nvme, subsystem: pool, function: ${number}, at: 00:04.0}]}]`;

  test('may be named', () => {
    expect(wrong(vms(3), there)).toEqual([]);
    expect(wrong(vms(4), there)).toEqual([expect.stringMatching(/0 to 3, got 4$/)]);
  });

  test('keep their names', () => {
    expect(
      wrong(
        `subsystems: [{name: pool, virtual-functions: 1, namespaces: [a.img]}]\n${vms(1)}`,
        there,
      ),
    ).toEqual(["1: subsystems[0]: expected a new name, got pool, which is a subsystem's already"]);
  });
});

test('all of it is told at once', () => {
  const text = `subsystems:
  - { name: A, virtual-functions: 99, namespaces: [] }
vms:
  - { name: a, functions: [{ device: nvme, at: 00:04.0, function: x, subsystem: "" }] }`;
  expect(wrong(text).map((words) => words.replace(/: expected.*/, ''))).toEqual([
    '2: subsystems[0].name',
    '2: subsystems[0].virtual-functions',
    '2: subsystems[0].namespaces',
    '4: vms[0].functions[0].subsystem',
    '4: vms[0].functions[0].function',
  ]);
});
