import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { encode as encodePng } from 'fast-png';
import type { Transfer } from '../devices/edu/dma-engine.ts';
import { Edu } from '../devices/edu/edu.ts';
import { Machine, type PluggedFunction } from '../machine/machine.ts';
import { formatRequesterId, parseRequesterId } from '../pci/requester-id.ts';
import type { Parts } from '../setup/parts.ts';
import type { Accelerator } from '../vm/qemu-command.ts';
import type { VirtualMachine } from '../vm/virtual-machine.ts';
import { countOccurrences, PageFinder, throughKeySlot } from './memory-search.ts';
import { type Picture, sealedLetter } from './picture.ts';
import { type RefusedDma, tryRefusedDma } from './refusals.ts';

const EDU_RID = parseRequesterId('00:04.0');
const MARKER_PAGES = 256;
const PAGE_BYTES = 4096;
const PICTURE_PATH = '/root/picture';
const RETURNED_PATH = '/root/picture-returned';
const MARKER_PATH = '/root/markers';
const GUEST_TIMEOUT_MS = 120_000;

export interface DemonstrationOptions {
  readonly parts: Parts;
  readonly memory: 'sealed' | 'plain';
  readonly bytes: number;
  /** Where the two pictures go; made where it is missing. */
  readonly outputDirectory: string;
  readonly accelerator?: Accelerator | 'auto';
  readonly signal?: AbortSignal;
  /** Called as each phase begins, in words. */
  readonly onPhase?: (words: string) => void;
  readonly log?: (message: string) => void;
}

/** What `npm start -- --json` prints. */
export interface DemonstrationReport {
  readonly guest: {
    readonly kernel: string;
    readonly accel: Accelerator;
    readonly bootSeconds: number;
  };
  readonly function: {
    readonly rid: string;
    readonly vendor: string;
    readonly device: string;
    readonly driver: string;
  };
  readonly memory: { readonly mode: 'sealed' | 'plain'; readonly bytes: number };
  readonly dma: {
    /** Bytes of the picture that the device read from the guest, and wrote back. */
    readonly bytesRead: number;
    readonly bytesWritten: number;
    /** Whether the guest's picture, the device's and the one that came back are the same. */
    readonly digestMatches: boolean;
    readonly digests: {
      readonly guest: string;
      readonly device: string;
      readonly returned: string;
    };
  };
  readonly dram: {
    /** Pages that hold something: hits in an empty DRAM would prove nothing. */
    readonly pagesWritten: number;
    readonly markersHeld: number;
    /** Occurrences of the guest's marker in DRAM as it is, and in DRAM through the key slot. */
    readonly markerHits: number;
    readonly markerHitsDecrypted: number;
  };
  /** The start of the driver's DMA buffer, in hexadecimal: as the device sees it, and in DRAM. */
  readonly buffer: { readonly gpa: string; readonly device: string; readonly dram: string };
  readonly refused: readonly RefusedDma[];
  readonly pictures: { readonly dram: string; readonly device: string };
  /** What did not hold; empty where all of it did. */
  readonly failures: readonly string[];
}

/** Watches the transfers of the picture: what the device got, and from where. */
class TransferWatch {
  bytesRead = 0;
  bytesWritten = 0;
  lastSource = 0;
  readonly #received: Buffer[] = [];

  readonly onTransfer = ({ toRam, source, count }: Transfer, bytes: Uint8Array): void => {
    if (toRam) {
      this.bytesWritten += Number(count);
      return;
    }
    this.bytesRead += Number(count);
    this.lastSource = Number(source);
    this.#received.push(Buffer.from(bytes));
  };

  get received(): Buffer {
    return Buffer.concat(this.#received);
  }
}

/**
 * Boots a guest, has its driver move a picture through the device and back, looks at DRAM with and
 * without the key, and tries what must be refused.
 * @throws FuseUnavailable, VmError, SetupError, the signal's reason
 */
export async function demonstrate(options: DemonstrationOptions): Promise<DemonstrationReport> {
  options.onPhase?.(
    options.memory === 'sealed' ? 'sealing guest memory' : 'taking plain guest memory',
  );
  const machine = await Machine.create(options);
  try {
    return await demonstrateOn(machine, options);
  } finally {
    await machine[Symbol.asyncDispose]();
  }
}

async function demonstrateOn(
  machine: Machine,
  options: DemonstrationOptions,
): Promise<DemonstrationReport> {
  const phase = options.onPhase ?? (() => {});
  const watch = new TransferWatch();
  // With edu's own 28 bits no address outside a guest of 512 MiB could be given to the IOMMU.
  const edu = new Edu({ onTransfer: watch.onTransfer, dmaMask: (1n << 40n) - 1n });
  const plugged = machine.plug(edu, EDU_RID);
  const { accelerator } = await machine.plan(bootOptions(options));
  phase(`booting the guest (${accelerator.accelerator}: ${accelerator.why})`);
  const vm = await machine.boot(bootOptions(options));
  // Whatever waits for the guest then ends with it.
  options.signal?.addEventListener('abort', () => void vm.stop(), { once: true });

  phase('loading the driver');
  await vm.insmod('sealbus_edu');
  const driver = await vm.check([
    'readlink',
    `/sys/bus/pci/devices/${formatRequesterId(EDU_RID)}/driver`,
  ]);

  phase('sending the picture through the device and back');
  const picture = sealedLetter();
  const marker = Buffer.from(`sealbus marker ${randomBytes(12).toString('hex')}`);
  await vm.writeFile(PICTURE_PATH, picture.pixels);
  await vm.writeFile(MARKER_PATH, markerPages(marker));
  await vm.check(['edu-copy', '/dev/edu0', PICTURE_PATH, RETURNED_PATH], {
    timeoutMs: GUEST_TIMEOUT_MS,
  });
  const dma = await compareDigests(vm, picture, watch);

  phase('looking at DRAM, with and without the key');
  await machine.sealed?.flush();
  const seen = lookAtMemory(machine, plugged, marker, picture);
  const buffer = bufferSideBySide(machine, plugged, watch.lastSource);
  const pictures = writePictures(options.outputDirectory, picture, watch.received, seen.inDram);

  phase('trying what must be refused');
  const refused = await tryRefusedDma(machine, vm, plugged, edu, watch.lastSource);
  phase('ending the guest');

  const { id } = Edu;
  const report = {
    guest: {
      kernel: vm.kernelRelease,
      accel: accelerator.accelerator,
      bootSeconds: Number(vm.bootSeconds.toFixed(3)),
    },
    function: {
      rid: formatRequesterId(EDU_RID),
      vendor: `0x${id.vendor.toString(16).padStart(4, '0')}`,
      device: `0x${id.device.toString(16).padStart(4, '0')}`,
      driver: driver.trim().split('/').at(-1) ?? '',
    },
    memory: { mode: machine.mode, bytes: machine.bytes },
    dma,
    dram: seen.dram,
    buffer,
    refused,
    pictures,
  };
  const failures = judge(report, picture);
  if (seen.inDram === undefined) {
    failures.push("expected all pages of the guest's picture in its memory, got some only");
  }
  return { ...report, failures };
}

function bootOptions({ accelerator, signal }: DemonstrationOptions) {
  return {
    ...(accelerator === undefined ? {} : { accelerator }),
    ...(signal === undefined ? {} : { signal }),
  };
}

/** A page for each marker, at another place in each, among bytes that are in no marker. */
function markerPages(marker: Buffer): Buffer {
  const pages = Buffer.alloc(MARKER_PAGES * PAGE_BYTES, '.');
  for (let page = 0; page < MARKER_PAGES; page++) {
    marker.copy(pages, page * PAGE_BYTES + ((page * 61) % (PAGE_BYTES - marker.length)));
  }
  return pages;
}

async function compareDigests(
  vm: VirtualMachine,
  picture: Picture,
  watch: TransferWatch,
): Promise<DemonstrationReport['dma']> {
  const sums = await vm.check(['sha256sum', PICTURE_PATH, RETURNED_PATH], {
    timeoutMs: GUEST_TIMEOUT_MS,
  });
  const [guest = '', returned = ''] = sums.split('\n').map((line) => line.slice(0, 64));
  const device = createHash('sha256').update(watch.received).digest('hex');
  const sent = createHash('sha256').update(picture.pixels).digest('hex');
  return {
    bytesRead: watch.bytesRead,
    bytesWritten: watch.bytesWritten,
    digestMatches: [guest, returned, device].every((digest) => digest === sent),
    digests: { guest, device, returned },
  };
}

function lookAtMemory(
  machine: Machine,
  plugged: PluggedFunction,
  marker: Buffer,
  picture: Picture,
): { dram: DemonstrationReport['dram']; inDram: Uint8Array | undefined } {
  const finder = new PageFinder(picture.pixels);
  const raw = machine.sealed?.dram();
  let pagesWritten = 0;
  let markerHits = 0;
  let markerHitsDecrypted = 0;
  for (const { gpa, bytes } of throughKeySlot(plugged)) {
    markerHitsDecrypted += countOccurrences(bytes, marker);
    finder.look(gpa, bytes);
    const there = raw === undefined ? bytes : dramAt(machine, plugged, gpa, bytes.length);
    markerHits += countOccurrences(there, marker);
    pagesWritten += pagesNotZero(there);
  }
  const places = finder.found;
  return {
    dram: { pagesWritten, markersHeld: MARKER_PAGES, markerHits, markerHitsDecrypted },
    inDram: places.every((place) => place !== undefined)
      ? Buffer.concat(places.map(({ gpa }) => dramAt(machine, plugged, gpa, PAGE_BYTES)))
      : undefined,
  };
}

/** What lies in DRAM at a guest-physical address; a range inside one region. */
function dramAt(
  machine: Machine,
  plugged: PluggedFunction,
  gpa: number,
  length: number,
): Uint8Array {
  const dram = machine.sealed?.dram();
  if (dram === undefined) {
    const bytes = new Uint8Array(length);
    plugged.port.readInto(gpa, bytes);
    return bytes;
  }
  const region = plugged.memory.regions.find(gpa);
  if (region === undefined || typeof region.backing !== 'number') {
    throw new Error(`expected sealed guest RAM at 0x${gpa.toString(16)}, got none`);
  }
  const offset = region.backing + gpa - region.gpa;
  return dram.subarray(offset, offset + length);
}

function pagesNotZero(bytes: Uint8Array): number {
  let pages = 0;
  const zeros = Buffer.alloc(PAGE_BYTES);
  for (let at = 0; at < bytes.length; at += PAGE_BYTES) {
    if (zeros.compare(bytes, at, Math.min(at + PAGE_BYTES, bytes.length)) !== 0) pages++;
  }
  return pages;
}

function bufferSideBySide(
  machine: Machine,
  plugged: PluggedFunction,
  gpa: number,
): DemonstrationReport['buffer'] {
  const device = new Uint8Array(64);
  plugged.port.readInto(gpa, device);
  const dram = dramAt(machine, plugged, gpa, device.length);
  const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
  return { gpa: `0x${gpa.toString(16)}`, device: hex(device), dram: hex(dram) };
}

function writePictures(
  directory: string,
  picture: Picture,
  received: Uint8Array,
  inDram: Uint8Array | undefined,
): DemonstrationReport['pictures'] {
  mkdirSync(directory, { recursive: true });
  const paths = {
    dram: join(directory, 'picture-in-dram.png'),
    device: join(directory, 'picture-seen-by-device.png'),
  };
  const write = (path: string, pixels: Uint8Array) => {
    const { width, height } = picture;
    const data = new Uint8Array(width * height * 3);
    data.set(pixels.subarray(0, data.length));
    writeFileSync(path, encodePng({ width, height, data, channels: 3, depth: 8 }));
  };
  write(paths.device, received);
  // One of an earlier run must not pass for this one's.
  if (inDram === undefined) rmSync(paths.dram, { force: true });
  else write(paths.dram, inDram);
  return paths;
}

/** Everything that the demonstration claims, against what was seen. */
function judge(report: Omit<DemonstrationReport, 'failures'>, picture: Picture): string[] {
  const { dma, dram, memory, refused, function: fn } = report;
  const failures: string[] = [];
  const expect = (held: boolean, words: string) => {
    if (!held) failures.push(words);
  };
  expect(fn.driver === 'sealbus_edu', `expected the driver sealbus_edu, got "${fn.driver}"`);
  expect(dma.digestMatches, 'expected equal digests of the picture, got different ones');
  for (const [what, bytes] of [
    ['read', dma.bytesRead],
    ['wrote', dma.bytesWritten],
  ] as const) {
    const { length } = picture.pixels;
    expect(bytes === length, `expected the device to have ${what} ${length} bytes, got ${bytes}`);
  }
  const { markersHeld, markerHits, markerHitsDecrypted } = dram;
  expect(
    markerHitsDecrypted >= markersHeld,
    `expected all ${markersHeld} markers through the key slot, got ${markerHitsDecrypted}`,
  );
  if (memory.mode === 'sealed') {
    expect(markerHits === 0, `expected no marker in DRAM, got ${markerHits}`);
    expect(
      report.buffer.device !== report.buffer.dram,
      'expected ciphertext in DRAM where the device sees its buffer, got the same bytes',
    );
  }
  for (const { case: name, direction, bytesDisclosed, bytesChanged, faults } of refused) {
    expect(
      bytesDisclosed === 0 && bytesChanged === 0 && faults === 1,
      `expected nothing but one fault from a ${direction} with ${name}, got ${bytesDisclosed} ` +
        `bytes disclosed, ${bytesChanged} changed, ${faults} faults`,
    );
  }
  return failures;
}
