/**
 * The rotation of the key of 512 MiB of sealed memory, all of it written and no guest on it, beside one plain
 * pass of the engine over as many bytes: a rotation is two of these, a decryption and an encryption, and
 * what lies between. `npm run bench -- rotation`; rotation-fio.ts has a guest.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { EvpXts } from '../src/crypto/evp-xts.ts';
import {
  MAP_ANONYMOUS,
  MAP_POPULATE,
  MAP_PRIVATE,
  mmap,
  munmap,
  PROT_READ,
  PROT_WRITE,
} from '../src/ffi/libc.ts';
import { keySlot } from '../src/keys/key-slot.ts';
import { fillRandom, SecretPage } from '../src/keys/secret-memory.ts';
import type { RotationProgress } from '../src/keys/slot-keeper.ts';
import { vmId } from '../src/keys/vm-id.ts';
import { KeySlots } from '../src/machine/key-slots.ts';
import { SlotRegister } from '../src/machine/slot-register.ts';
import { gpa } from '../src/memory/guest-memory.ts';
import { MemoryController } from '../src/memory/memory-controller.ts';
import { SealedRam } from '../src/memory/sealed-ram.ts';
import type { BenchContext } from './bench-context.ts';
import { type Comparison, compare, interleaved, median, rounded } from './figures.ts';

const BYTES = 512 * 2 ** 20;
const ROUNDS = 15;
const BAR = { atMost: 3 } as const;
const SLOT = keySlot(1);
const VM = vmId(1);
const FILL_BYTES = 2 ** 20;
/** What a rotation does at once, so that the pass makes as many calls. */
const STEP_BYTES = 64 * 1024;
const PAGE_BYTES = 4096;

/** The ratio is that of elapsed times. */
export interface RotationResult extends Comparison {
  readonly bytes: number;
  /** From the asking to the word that it is done. */
  readonly rotation_ms: number;
  /** What it had of the controller's thread. */
  readonly work_ms: number;
  readonly pass_ms: number;
}

/** @throws FuseUnavailable where memory cannot be sealed here; Error */
export async function benchRotation({ say, signal }: BenchContext): Promise<RotationResult> {
  await using stack = new AsyncDisposableStack();
  const directory = stack.adopt(mkdtempSync(join(tmpdir(), 'sealbus-bench-')), (path) =>
    rmSync(path, { recursive: true, force: true }),
  );
  const controller = await MemoryController.start({ directory: join(directory, 'ram') });
  stack.defer(() => controller.stop());
  const keys = new KeySlots(new SlotRegister(), controller.keys);
  await keys.generate(SLOT, { vm: VM });
  await keys.activate(SLOT);
  const about = { name: 'bench', vm: VM, slot: SLOT, bytes: BYTES };
  const ram = stack.adopt(await SealedRam.create(controller, about), (made) => made.close());
  say(`writing ${BYTES / 2 ** 20} MiB`);
  const memory = ram.memory();
  memory.regions.add({ gpa: gpa(0), size: BYTES, readable: true, writable: true, backing: 0 });
  const chunk = new Uint8Array(FILL_BYTES).fill(7);
  for (let at = 0; at < BYTES; at += FILL_BYTES) memory.write(gpa(at), SLOT, chunk);

  const pass = stack.use(new PlainPass(BYTES));
  const ends: RotationProgress[] = [];
  const rounds = await interleaved(
    ROUNDS,
    {
      pass: () => pass.run(),
      rotation: async () => {
        const begun = performance.now();
        await keys.rotate(SLOT);
        ends.push(await keys.rotated(SLOT));
        return performance.now() - begun;
      },
    },
    () => signal.throwIfAborted(),
  );
  const unmoved = ends.find(({ movedPages }) => movedPages !== BYTES / PAGE_BYTES);
  if (unmoved !== undefined) {
    throw new Error(`expected every page to move, got ${unmoved.movedPages} of ${unmoved.pages}`);
  }
  const [rotation_ms, pass_ms] = [median(rounds.rotation), median(rounds.pass)];
  const peer = `one pass of the engine over ${BYTES / 2 ** 20} MiB`;
  return {
    ...compare(rotation_ms, pass_ms, { peer, bar: BAR, rounds: ROUNDS }),
    bytes: BYTES,
    rotation_ms: rounded(rotation_ms),
    work_ms: rounded(median(ends.map(({ workMs }) => workMs))),
    pass_ms: rounded(pass_ms),
  };
}

/** Memory that the engine encrypts where it lies, page by page under its number, as fast as it can. */
export class PlainPass implements Disposable {
  readonly #bytes: number;
  readonly #address: number;
  readonly #key = new SecretPage();
  readonly #cipher: EvpXts;

  constructor(bytes: number) {
    this.#bytes = bytes;
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE;
    this.#address = mmap(0, bytes, PROT_READ | PROT_WRITE, flags);
    const key = { address: this.#key.addressAt(0, 64), bytes: 64 } as const;
    fillRandom(key.address, key.bytes);
    this.#cipher = new EvpXts(key);
  }

  /** @returns ms */
  run(): number {
    const begun = performance.now();
    for (let done = 0; done < this.#bytes; done += STEP_BYTES) {
      const at = this.#address + done;
      this.#cipher.encrypt(at, at, done / PAGE_BYTES, 0, STEP_BYTES);
    }
    return performance.now() - begun;
  }

  [Symbol.dispose](): void {
    this.#cipher.close();
    this.#key.release();
    munmap(this.#address, this.#bytes);
  }
}
