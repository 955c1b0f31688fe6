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
import {
  DriverTimes,
  type TimedAttribute,
  type TimedRounds,
  type Times,
  timingScript,
} from './driver-times.ts';
import { type Comparison, compare } from './figures.ts';
import { type MmioFigure, type MmioPlacement, measureMmio } from './mmio.ts';

const ROUNDS = 11;
/** Register reads, and doorbells, of one round. */
const SAMPLES = 1500;
const BAR = { atMost: 1.3 } as const;
const GUEST_BYTES = 256 * 2 ** 20;

const OURS = '0000:00:04.0';
const C = '0000:00:05.0';
const TIMED: TimedRounds = {
  functions: [OURS, C],
  attributes: ['mmio_read_ns', 'irq_latency_ns'],
  rounds: ROUNDS,
  samples: SAMPLES,
};

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
    const text = await guest.check(['sh', '-c', timingScript(TIMED)], { timeoutMs: 300_000 });
    const times = new DriverTimes(text, TIMED);
    const figure = (attribute: TimedAttribute, key: keyof MmioPlacement): GuestMmioFigure => {
      const ours = times.of(OURS, attribute);
      const c = times.of(C, attribute);
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
