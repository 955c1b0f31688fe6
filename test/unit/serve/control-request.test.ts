import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseRequest, RequestError } from '../../../src/serve/control/control-request.ts';

function refusal(line: string): RequestError | undefined {
  try {
    parseRequest(line);
    return undefined;
  } catch (error) {
    if (error instanceof RequestError) return error;
    throw error;
  }
}

test.each([
  { op: 'ps' },
  { op: 'inspect', vm: 'alpha' },
  { op: 'key-generate', slot: 0 },
  { op: 'key-generate', slot: 4095, vm: 'a', bits: 128 },
  { op: 'key-rotate', slot: 'alpha', descriptor: true },
  { op: 'key-rotate', slot: 'alpha', duty: 60 },
  { op: 'bind', rid: '0001:00:04.0', target: '7' },
  { op: 'bind-clear', rid: '0001:00:04.0' },
  { op: 'bind-range', rid: '0001:00:04.0', address: 4096, bytes: 4096, slot: 'alpha' },
  { op: 'bind-range', rid: '0001:00:04.0', address: 0, bytes: 8192, clear: true },
  { op: 'pages-share', vm: 'alpha', address: 0, bytes: 4096, keep: true },
  { op: 'pages-unshare', vm: 'alpha', address: 2 ** 40, bytes: 2 ** 39, keep: false },
  { op: 'bind', rid: '0001:00:04.0', target: 'alpha', at: '01:00.0' },
  { op: 'vm-add', text: 'vms: []', file: 'f', directory: '/', descriptor: 3 },
  { op: 'record', follow: true, last: 0 },
  { op: 'subsystem-assign', subsystem: 'pool', nsid: 256, function: 64 },
  { op: 'subsystem-assign', subsystem: 'pool', nsid: 1, function: null },
])('$op is taken as it is', (fields) => {
  const request = { id: 7, ...fields };
  expect(parseRequest(JSON.stringify(request))).toEqual(request);
});

function pages(change: object): string {
  const request = { id: 1, op: 'pages-share', vm: 'a', address: 0, bytes: 4096, keep: true };
  return JSON.stringify({ ...request, ...change });
}

describe('what is no request is refused, with its id where there is one:', () => {
  test.each<[string, string, number | null, RegExp]>([
    ['no JSON', '{', null, /no JSON/],
    ['a list', '[]', null, /something else/],
    ['null', 'null', null, /something else/],
    ['no id', '{"op":"ps"}', null, /whole number in id/],
    ['a fraction as id', '{"id":1.5,"op":"ps"}', null, /whole number in id/],
    ['no op', '{"id":1}', 1, /op to be one of ps, /],
    ['an unknown op', '{"id":1,"op":"reboot"}', 1, /op to be one of/],
    ['an op of every object', '{"id":1,"op":"constructor"}', 1, /op to be one of/],
    [
      'a field of every object',
      '{"id":1,"op":"ps","constructor":1}',
      1,
      /no other fields than none/,
    ],
    ['a prototype', '{"id":1,"op":"ps","__proto__":{}}', 1, /no other fields than none/],
    ['a field too many', '{"id":1,"op":"inspect","vm":"a","key":"00"}', 1, /got "key"/],
    ['a field too few', '{"id":1,"op":"inspect"}', 1, /expected vm with inspect/],
    [
      'a slot too high',
      '{"id":1,"op":"key-activate","slot":4096}',
      1,
      /key slot from 0 to 4095 in slot/,
    ],
    ['a slot as text', '{"id":1,"op":"key-activate","slot":"1"}', 1, /key slot from 0 to 4095/],
    [
      'a function that is neither a number nor null',
      '{"id":1,"op":"subsystem-assign","subsystem":"pool","nsid":1,"function":"none"}',
      1,
      /number of a function from 0 to 64, or null in function/,
    ],
    ['an address in a page', pages({ address: 0x1008 }), 1, /multiple of 4096 .* in address/],
    ['an address below 0', pages({ address: -4096 }), 1, /multiple of 4096 from 0 .* in address/],
    ['an address as text', pages({ address: '0x1000' }), 1, /in address of pages-share/],
    ['a part of a page', pages({ bytes: 100 }), 1, /multiple of 4096 .* in bytes/],
    ['no page', pages({ bytes: 0 }), 1, /from 4096 to .* in bytes/],
    ['more than any memory', pages({ bytes: 2 ** 40 }), 1, /to 549755813888 in bytes/],
    ['no number', pages({ bytes: null }), 1, /in bytes of pages-share/],
    [
      'content neither kept nor not',
      pages({ keep: undefined }),
      1,
      /expected keep with pages-share/,
    ],
    ['bits of no key', '{"id":1,"op":"key-generate","slot":1,"bits":192}', 1, /128 or 256 bits/],
    [
      'a name without end',
      `{"id":1,"op":"inspect","vm":"${'a'.repeat(100)}"}`,
      1,
      /1 to 64 characters/,
    ],
  ])('%s', (_, line, id, words) => {
    const error = refusal(line);
    expect(error?.message).toMatch(words);
    expect(error?.id).toBe(id);
  });

  test('whatever the line is', () => {
    const value = fc.oneof(fc.jsonValue(), fc.integer(), fc.string());
    const near = fc.record(
      {
        id: fc.oneof(fc.nat(), value),
        op: fc.oneof(
          fc.constantFrom('ps', 'inspect', 'key-load', 'bind', 'vm-add', 'record'),
          value,
        ),
        vm: value,
        slot: value,
        text: value,
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.json(),
          near.map((one) => JSON.stringify(one)),
        ),
        (line) => {
          const error = refusal(line);
          // Short, whatever was sent: it goes back to who sent it.
          if (error !== undefined) expect(error.message.length).toBeLessThan(400);
          else expect(parseRequest(line)).toEqual(JSON.parse(line));
        },
      ),
      { numRuns: 500 },
    );
  });
});
