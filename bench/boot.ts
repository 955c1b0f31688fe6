/** From QEMU's start to init, in sealed RAM and in plain RAM. `node bench/main.ts --only boot`. */
import { Edu } from '../src/devices/edu/edu.ts';
import { Machine } from '../src/machine/machine.ts';
import { parseRequesterId } from '../src/pci/requester-id.ts';
import type { BenchContext } from './bench-context.ts';
import { type Comparison, compare, interleaved, median, rounded } from './figures.ts';

const ROUNDS = 5;
const BAR = { atMost: 1.25 } as const;
const GUEST_BYTES = 512 * 2 ** 20;

export interface BootResult extends Comparison {
  readonly sealed_s: number;
  readonly plain_s: number;
  /** Each round's. */
  readonly sealedRounds_s: readonly number[];
  readonly plainRounds_s: readonly number[];
  readonly guest_bytes: number;
  /** Whether the controller could lift the backing device's write-back limits (root can). */
  readonly writeBackLimitsLifted: boolean;
  /** Of the last sealed boot: what the controller served. */
  readonly fills: number;
  readonly filled_bytes: number;
  readonly writeBacks: number;
  readonly writtenBack_bytes: number;
}

/** @throws FuseUnavailable; Error where a guest does not boot. */
export async function benchBoot({ parts, say, signal }: BenchContext): Promise<BootResult> {
  const boot = async (memory: 'sealed' | 'plain') => {
    await using machine = await Machine.create({ parts, memory, bytes: GUEST_BYTES, log: say });
    machine.plug(new Edu(), parseRequesterId('00:04.0'));
    const guest = await machine.boot({ signal });
    const counters = await machine.sealed?.counters();
    const lifted = machine.controller?.writeBackLimitsLifted ?? false;
    return { seconds: guest.bootSeconds, counters, lifted };
  };
  const rounds = await interleaved(
    ROUNDS,
    { sealed: () => boot('sealed'), plain: () => boot('plain') },
    (round) => say(round === 0 ? 'to warm up' : `round ${round} of ${ROUNDS}`),
  );
  const seconds = (list: typeof rounds.sealed) => list.map((one) => rounded(one.seconds));
  const sealed_s = median(seconds(rounds.sealed));
  const plain_s = median(seconds(rounds.plain));
  const last = rounds.sealed.at(-1);
  if (last?.counters === undefined) throw new Error('expected counters of a sealed boot, got none');
  return {
    ...compare(sealed_s, plain_s, { peer: 'the same boot in plain RAM', bar: BAR, rounds: ROUNDS }),
    sealed_s,
    plain_s,
    sealedRounds_s: seconds(rounds.sealed),
    plainRounds_s: seconds(rounds.plain),
    guest_bytes: GUEST_BYTES,
    writeBackLimitsLifted: last.lifted,
    fills: last.counters.fills,
    filled_bytes: last.counters.filledPages * 4096,
    writeBacks: last.counters.writeBacks,
    writtenBack_bytes: last.counters.writtenBackPages * 4096,
  };
}
