/** What a guest has to say at the end of its test, and what of it fails the test. */
import { type KernelComplaint, kernelComplaints } from '../vm/kernel-log.ts';
import { indent } from '../vm/serial.ts';
import type { MachineEnd, VirtualMachine } from '../vm/virtual-machine.ts';
import { VmError } from '../vm/vm-error.ts';

/** The guest's kernel complained, and the test did not say that it may. */
export class GuestComplaintError extends VmError {
  override readonly name = 'GuestComplaintError';
  readonly complaints: readonly KernelComplaint[];

  constructor(complaints: readonly KernelComplaint[]) {
    const shown = complaints.slice(0, complaintsShown);
    const more = complaints.length - shown.length;
    const list = shown.map(({ kind, excerpt }) => `${kind}:\n${indent(firstLines(excerpt))}`);
    super(
      `expected a guest whose kernel does not complain, got ${kinds(complaints)}.\n` +
        `${list.join('\n')}${more > 0 ? `\nand ${more} more` : ''}\n` +
        'A test that expects one says so: guest.allowComplaints(/…/)',
    );
    this.complaints = complaints;
  }
}

export interface GuestAtEnd {
  /** Undefined where none came to be. */
  readonly vm: VirtualMachine | undefined;
  /** Where QEMU has ended already. */
  readonly end: MachineEnd | undefined;
  readonly console: string;
  readonly allowed: readonly RegExp[];
}

const complaintsShown = 3;
const linesShown = 40;
const logTimeoutMs = 5000;

export class GuestVerdict {
  readonly errors: readonly Error[];
  /** Undefined where the guest did not tell it any more. */
  readonly kernelLog: string | undefined;

  private constructor(errors: readonly Error[], kernelLog: string | undefined) {
    this.errors = errors;
    this.kernelLog = kernelLog;
  }

  /** Asks a guest that is still there for its log. */
  static async of({ vm, end, console, allowed }: GuestAtEnd): Promise<GuestVerdict> {
    const answer = vm === undefined || end !== undefined ? undefined : await lastLog(vm);
    const errors: Error[] = [];
    const complaints = unexpected(console, answer?.log, allowed);
    if (complaints.length > 0) errors.push(new GuestComplaintError(complaints));
    if (answer?.failure !== undefined) errors.push(answer.failure);
    // A panic is a complaint; a guest that powered itself off may have been told to.
    if (end?.kind === 'failed') errors.push(end.error);
    return new GuestVerdict(errors, answer?.log);
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

async function lastLog(
  vm: VirtualMachine,
): Promise<{ readonly log?: string; readonly failure?: Error }> {
  try {
    const { exitCode, ended, stdout } = await vm.exec(['dmesg'], { timeoutMs: logTimeoutMs });
    if (exitCode === 0) return { log: stdout.toString('utf8') };
    if (ended === 'panicked') return {};
    return {
      failure: new VmError(
        `expected the guest to answer at the end of the test, got none within ` +
          `${logTimeoutMs / 1000} s: its kernel hangs. The console's last lines:\n` +
          indent(vm.console.lastLines()),
      ),
    };
  } catch (error) {
    return { failure: error instanceof Error ? error : new VmError(String(error)) };
  }
}

function kinds(complaints: readonly KernelComplaint[]): string {
  const counts = new Map<string, number>();
  for (const { kind } of complaints) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  return [...counts]
    .map(([kind, count]) => (count === 1 ? kind : `${count} of ${kind}`))
    .join(', ');
}

function firstLines(text: string): string {
  const lines = text.split('\n');
  if (lines.length <= linesShown) return text;
  return [...lines.slice(0, linesShown), `(${lines.length - linesShown} more lines)`].join('\n');
}
