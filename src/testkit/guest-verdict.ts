/** What a guest has to say at the end of its test, and what of it fails the test. */
import { type KernelComplaint, kernelComplaints, withoutTime } from '../vm/kernel-log.ts';
import { indent } from '../vm/serial.ts';
import type { MachineEnd, VirtualMachine } from '../vm/virtual-machine.ts';
import { VmError } from '../vm/vm-error.ts';

/** The guest's kernel complained, and the test did not say that it may. */
export class GuestComplaintError extends VmError {
  override readonly name = 'GuestComplaintError';
  readonly complaints: readonly KernelComplaint[];

  get onlyPanic(): boolean {
    return this.complaints.every(({ kind }) => kind === 'panic');
  }

  constructor(complaints: readonly KernelComplaint[]) {
    const first = complaints.slice(0, complaintsShown);
    const more = complaints.length - first.length;
    const list = first.map(({ kind, excerpt }) => `${kind}:\n${indent(shown(excerpt))}`);
    super(
      `expected a guest whose kernel does not complain, got ${kinds(complaints)}.\n` +
        `${list.join('\n')}${more > 0 ? `\nand ${more} more` : ''}\n` +
        'A test that expects one says so: guest.allowComplaints(/…/)',
    );
    this.complaints = complaints;
    // No line of the test is to blame: without frames vitest shows none.
    this.stack = `${this.name}: ${this.message}`;
  }
}

export interface GuestAtEnd {
  /** Undefined where none came to be. */
  readonly vm: VirtualMachine | undefined;
  /** False where it is known that it does not. */
  readonly answers: boolean;
  /** Where QEMU has ended already. */
  readonly end: MachineEnd | undefined;
  readonly console: string;
  readonly allowed: readonly RegExp[];
}

const complaintsShown = 3;
const linesShown = 40;
const logTimeoutMs = 5000;

export class GuestVerdict {
  /** What its kernel complained of; undefined where there is nothing. */
  readonly complaint: GuestComplaintError | undefined;
  /** That it is not there any more, or hangs: news where the test did not see it. */
  readonly lost: Error | undefined;
  /** Undefined where the guest did not tell it any more. */
  readonly kernelLog: string | undefined;

  private constructor(fields: Pick<GuestVerdict, 'complaint' | 'lost' | 'kernelLog'>) {
    this.complaint = fields.complaint;
    this.lost = fields.lost;
    this.kernelLog = fields.kernelLog;
  }

  /** Asks a guest that is still there for its log. */
  static async of({ vm, answers, end, console, allowed }: GuestAtEnd): Promise<GuestVerdict> {
    const asked = vm !== undefined && end === undefined;
    const answer: LastLog = !asked ? {} : answers ? await lastLog(vm) : { failure: hangs(vm) };
    const complaints = unexpected(console, answer.log, allowed);
    return new GuestVerdict({
      complaint: complaints.length === 0 ? undefined : new GuestComplaintError(complaints),
      // A panic is a complaint; a guest that powered itself off may have been told to.
      lost: end?.kind === 'failed' ? end.error : answer.failure,
      kernelLog: answer.log,
    });
  }
}

/** The console has what the kernel's ring has lost; the ring has what a quiet console left out. */
function unexpected(
  console: string,
  log: string | undefined,
  allowed: readonly RegExp[],
): KernelComplaint[] {
  const fromLog = kernelComplaints(log ?? '');
  const known = new Set(fromLog.map(({ line }) => line));
  const fromConsole = kernelComplaints(console).filter(({ line }) => !known.has(line));
  return [...fromConsole, ...fromLog].filter(
    ({ line, excerpt }) => !allowed.some((one) => one.test(line) || one.test(excerpt)),
  );
}

/** The kernel's log, or why there is none; neither of a guest that has panicked meanwhile. */
interface LastLog {
  readonly log?: string;
  readonly failure?: Error;
}

async function lastLog(vm: VirtualMachine): Promise<LastLog> {
  try {
    const { exitCode, ended, stdout } = await vm.exec(['dmesg'], { timeoutMs: logTimeoutMs });
    if (exitCode === 0) return { log: stdout.toString('utf8') };
    if (ended === 'panicked') return {};
    return { failure: hangs(vm) };
  } catch (error) {
    return { failure: error instanceof Error ? error : new VmError(String(error)) };
  }
}

function hangs(vm: VirtualMachine): VmError {
  return new VmError(
    'expected the guest to answer at the end of the test, got nothing: its kernel hangs. ' +
      `The console's last lines:\n${indent(vm.console.lastLines())}`,
  );
}

function kinds(complaints: readonly KernelComplaint[]): string {
  const counts = new Map<string, number>();
  for (const { kind } of complaints) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  return [...counts]
    .map(([kind, count]) => (count === 1 ? kind : `${count} of ${kind}`))
    .join(', ');
}

/** Without registers and code: they are in the evidence. */
function shown(excerpt: string): string {
  const lines = excerpt.split('\n').filter((line) => !forMachines.test(withoutTime(line)));
  const more = lines.length - linesShown;
  return [...lines.slice(0, linesShown), ...(more > 0 ? [`(${more} more lines)`] : [])].join('\n');
}

const forMachines =
  /^(Code:|RSP:|R[ABD][XIP]:|R\d\d:|FS:|CS:|CR\d:|DR\d:|PKRU:|Tainted: \[|Hardware name:)/;
