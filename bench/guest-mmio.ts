/**
 * A register read and a doorbell-to-interrupt round as the guest sees them: one guest with two edu
 * functions, ours and the same in C, both bound to the driver sealbus_edu, which measures.
 * `node bench/main.ts --only mmio`.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Edu } from '../src/devices/edu/edu.ts';
import { Machine } from '../src/machine/machine.ts';
import { parseRequesterId } from '../src/pci/requester-id.ts';
import type { BenchContext } from './bench-context.ts';
import { C_SERVER, startCServer } from './c-server.ts';
import { type Comparison, compare, median } from './figures.ts';
import { type MmioFigure, type MmioPlacement, measureMmio } from './mmio.ts';

const ROUNDS = 11;
/** Register reads, and doorbells, of one round. */
const SAMPLES = 1500;
const BAR = { atMost: 1.3 } as const;
const GUEST_BYTES = 256 * 2 ** 20;

const OURS = '0000:00:04.0';
const C = '0000:00:05.0';
const ATTRIBUTES = ['mmio_read_ns', 'irq_latency_ns'] as const;

type Attribute = (typeof ATTRIBUTES)[number];

/** Nanoseconds in the guest: medians over rounds of a round's median, smallest and 90th of 100. */
interface Times {
  readonly median_ns: number;
  readonly min_ns: number;
  readonly p90_ns: number;
}

export interface GuestMmioFigure extends Comparison {
  readonly ours: Times;
  readonly c: Times;
  readonly samplesARound: number;
  /** The same without QEMU and guest: a C client on the socket, on another core and on the same. */
  readonly client: { readonly twoCores: MmioFigure; readonly oneCore: MmioFigure };
}

export interface GuestMmioResult {
  readonly mmioRead: GuestMmioFigure;
  readonly doorbellToInterrupt: GuestMmioFigure;
}

/** @throws Error where the guest does not boot, or one of the functions does not answer. */
export async function benchGuestMmio({
  parts,
  say,
  signal,
}: BenchContext): Promise<GuestMmioResult> {
  say('on the socket, with a C client');
  const client = await measureMmio(parts.libvfioUser);
  const directory = mkdtempSync(join(tmpdir(), 'sealbus-bench-'));
  try {
    await using server = await startCServer(parts.libvfioUser, directory);
    await using machine = await Machine.create({
      parts,
      memory: 'plain',
      bytes: GUEST_BYTES,
      log: say,
    });
    machine.plug(new Edu(), parseRequesterId(OURS));
    say('booting a guest with both functions');
    const guest = await machine.boot({
      devices: [{ kind: 'vfio-user', address: parseRequesterId(C), socket: server.socketPath }],
      signal,
    });
    await guest.insmod('sealbus_edu');
    say(`${ROUNDS} interleaved rounds in the guest`);
    const text = await guest.check(['sh', '-c', script()], { timeoutMs: 300_000 });
    const rounds = parse(text);
    const figure = (attribute: Attribute, key: keyof MmioPlacement): GuestMmioFigure => {
      const ours = times(rounds, OURS, attribute);
      const c = times(rounds, C, attribute);
      return {
        ...compare(ours.median_ns, c.median_ns, { peer: C_SERVER, bar: BAR, rounds: ROUNDS }),
        ours,
        c,
        samplesARound: SAMPLES,
        client: { twoCores: client.twoCores[key], oneCore: client.oneCore[key] },
      };
    };
    return {
      mmioRead: figure('mmio_read_ns', 'mmioRead'),
      doorbellToInterrupt: figure('irq_latency_ns', 'doorbellToInterrupt'),
    };
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** The rounds in one script, so that the agent's channel is still while they last. */
function script(): string {
  const at = (bdf: string) => `/sys/bus/pci/devices/${bdf}`;
  const lines = [OURS, C].map((bdf) => `echo ${SAMPLES} > ${at(bdf)}/rounds`);
  // One more round, the first, warms up.
  lines.push(`for round in $(seq 0 ${ROUNDS}); do`);
  for (const attribute of ATTRIBUTES) {
    for (const bdf of [OURS, C]) {
      lines.push(`echo "$round ${bdf} ${attribute} $(cat ${at(bdf)}/${attribute})"`);
    }
  }
  return ['set -e', ...lines, 'done'].join('\n');
}

interface Round {
  readonly bdf: string;
  readonly attribute: string;
  readonly median_ns: number;
  readonly min_ns: number;
  readonly p90_ns: number;
}

/** @throws Error where a line is not of the driver's form, or one is missing. */
function parse(text: string): Round[] {
  const lines = text.trim().split('\n');
  const rounds = lines.map((line) => {
    const match = /^(\d+) (\S+) (\w+) median (\d+) min (\d+) p90 (\d+) /.exec(line);
    if (match === null) throw new Error(`expected the driver's times, got ${JSON.stringify(line)}`);
    const [, round, bdf = '', attribute = '', middle, min, p90] = match;
    const values = { median_ns: Number(middle), min_ns: Number(min), p90_ns: Number(p90) };
    return { round: Number(round), bdf, attribute, ...values };
  });
  const expected = (ROUNDS + 1) * ATTRIBUTES.length * 2;
  if (rounds.length !== expected) {
    throw new Error(`expected ${expected} lines of times, got ${rounds.length}`);
  }
  return rounds.filter(({ round }) => round > 0);
}

function times(rounds: readonly Round[], bdf: string, attribute: Attribute): Times {
  const mine = rounds.filter((round) => round.bdf === bdf && round.attribute === attribute);
  const middle = (key: 'median_ns' | 'min_ns' | 'p90_ns') => median(mine.map((at) => at[key]));
  return { median_ns: middle('median_ns'), min_ns: middle('min_ns'), p90_ns: middle('p90_ns') };
}
