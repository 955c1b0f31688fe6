/** vitest's `test` with fixtures for drivers and their devices. */
import { type TestAPI, type TestError, vi, test as vitestTest } from 'vitest';
import type { HostedVmm } from '../client/hosted-vmm.ts';
import type { FaultPlan } from '../faults/fault-plan.ts';
import type { Machine } from '../machine/machine.ts';
import { FuseUnavailable } from '../memory/fuse/fuse-unavailable.ts';
import { MemoryError } from '../memory/guest-memory.ts';
import type { PciEndpoint } from '../pci/endpoint.ts';
import { SetupError } from '../setup/setup-error.ts';
import type { Trace } from '../trace/trace.ts';
import { SourceBuildError } from '../vm/driver-build.ts';
import { shownPath } from '../vm/shown-path.ts';
import { VmError } from '../vm/vm-error.ts';
import { dropEvidence, keepEvidence, repeatLine, type TestPlace } from './evidence.ts';
import { Rig, RigError } from './rig.ts';
import type { TestGuest } from './test-guest.ts';
import { checkOptions, type DriverTestOptions } from './test-options.ts';

/** What a driver test may ask for; each is made when it does, and is this test's own. */
export interface DriverFixtures<Device extends PciEndpoint = PciEndpoint> {
  /** The device under test, as its factory made it. */
  readonly device: Device;
  /** All of them: `device` first. */
  readonly devices: readonly PciEndpoint[];
  /** The machine with the devices plugged in. */
  readonly machine: Machine;
  /** The booted guest with the driver loaded. */
  readonly guest: TestGuest;
  /** In place of a guest: the device, driven by the test itself, in milliseconds. */
  readonly client: HostedVmm<Device>;
  /** What passed between devices, guest and memory. */
  readonly trace: Trace;
  /** Faults on demand. */
  readonly faults: FaultPlan;
  /** What the test was set up with. */
  readonly options: DriverTestOptions;
  readonly rig: Rig;
}

export type DriverTest<Device extends PciEndpoint = PciEndpoint> = TestAPI<
  DriverFixtures<Device>
> & {
  /**
   * Sets up the tests that follow, of this file or of this describe block: over what was said before.
   * @throws TypeError where something is no option
   */
  use<Other extends PciEndpoint = Device>(options: DriverTestOptions<Other>): DriverTest<Other>;
};

/** A first test boots, and may build a module; vitest's own 5 s are for functions. */
const timeoutMs = 120_000;

const extended = vitestTest.extend<DriverFixtures>({
  options: {},
  rig: async ({ options, task, signal }, use) => {
    const place: TestPlace = {
      file: task.file.filepath,
      name: task.fullTestName,
      ...(task.file.projectName ? { project: task.file.projectName } : {}),
    };
    const rig = new Rig(options, place, signal);
    const waiting: string[] = [];
    signal.addEventListener('abort', () => waiting.push(...rig.waitingFor), { once: true });
    await use(rig);
    await conclude(rig, place, task, waiting);
  },
  trace: async ({ rig }, use) => await use(rig.trace),
  faults: async ({ rig }, use) => await use(rig.faults),
  devices: async ({ rig }, use) => await use(rig.devices),
  device: async ({ rig }, use) => await use(rig.device),
  machine: async ({ rig }, use) => await use(await setUp(() => rig.machine())),
  client: async ({ rig }, use) => await use(await setUp(() => rig.client())),
  guest: async ({ rig }, use) => await use(await setUp(() => rig.guest())),
});

export const test: DriverTest = withUse(extended);

function withUse<Device extends PciEndpoint>(
  api: TestAPI<DriverFixtures<Device>>,
): DriverTest<Device> {
  const extend = api.extend.bind(api) as (...args: unknown[]) => TestAPI<DriverFixtures<Device>>;
  const driverTest = Object.assign(api, {
    use(options: DriverTestOptions<never>) {
      checkOptions(options);
      patience();
      api.override({
        // biome-ignore lint/suspicious/noExplicitAny: vitest's types leave out the fixture itself
        options: async ({ options: before }: any, use: any) => await use({ ...before, ...options }),
      } as never);
      return driverTest;
    },
  });
  driverTest.extend = ((...args: unknown[]) => withUse(extend(...args))) as typeof api.extend;
  patience();
  return driverTest as unknown as DriverTest<Device>;
}

/** For the tests of this file that say nothing themselves; a project that is more patient stays so. */
function patience(): void {
  const { testTimeout, hookTimeout } = settings();
  vi.setConfig({
    testTimeout: Math.max(testTimeout, timeoutMs),
    hookTimeout: Math.max(hookTimeout, timeoutMs),
  });
}

/** vitest tells a file's settings nowhere else; 0 is no limit there. */
function settings(): Record<'testTimeout' | 'hookTimeout', number> {
  const worker = (globalThis as { __vitest_worker__?: { config?: Record<string, unknown> } })
    .__vitest_worker__;
  const limit = (value: unknown) => (typeof value !== 'number' ? 0 : value || 2 ** 31 - 1);
  const { testTimeout, hookTimeout } = worker?.config ?? {};
  return { testTimeout: limit(testTimeout), hookTimeout: limit(hookTimeout) };
}

interface Outcome {
  readonly fails?: boolean | undefined;
  readonly result?: { state: string; errors?: TestError[] } | undefined;
}

/** Ends the test's machine; a failure is told with where its evidence is. */
async function conclude(
  rig: Rig,
  place: TestPlace,
  task: Outcome,
  waiting: readonly string[],
): Promise<void> {
  const own = task.result?.state === 'fail' ? (task.result.errors ?? []) : [];
  const found = await rig.finish(own);
  if (found.length === 0 && own.length === 0) {
    dropEvidence(place);
    return;
  }
  if (task.fails && found.length === 0) return;
  const when =
    waiting.length === 0 ? '' : `When its time was up it waited for ${waiting.join(', ')}.\n`;
  const last = own.at(-1) ?? found.at(-1);
  if (last !== undefined) addTo(last, `\n${when}${kept(rig, place)}`);
  if (found.length === 1) throw found[0];
  if (found.length > 1) throw new AggregateError(found);
}

function kept(rig: Rig, place: TestPlace): string {
  const { evidence } = rig;
  const repeat = `Repeat it: ${repeatLine(place, evidence.seed)}`;
  try {
    const { directory, files } = keepEvidence(place, evidence);
    return `Kept in ${shownPath(directory)}: ${files.join(', ')}\n${repeat}`;
  } catch (error) {
    return `Nothing could be kept of it: ${error}\n${repeat}`;
  }
}

/** Reporters show one or the other. */
function addTo(error: { message: string; stack?: string | undefined }, words: string): void {
  const { message, stack } = error;
  error.message = `${message}\n${words}`;
  if (stack?.includes(message)) error.stack = stack.replace(message, () => error.message);
}

/** What goes wrong before the test begins, told without the lines of sealbus that found it. */
async function setUp<Result>(make: () => Promise<Result>): Promise<Result> {
  try {
    return await make();
  } catch (error) {
    if (error instanceof Error && isTold(error))
      error.stack = `${error.name}: ${error.message}${frameOf(error)}`;
    throw error;
  }
}

function isTold(error: Error): boolean {
  return [RigError, VmError, SetupError, MemoryError, FuseUnavailable].some(
    (kind) => error instanceof kind,
  );
}

/** vitest shows the line of the source where the first error is. */
function frameOf(error: Error): string {
  if (!(error instanceof SourceBuildError) || error.place === undefined) return '';
  const { file, line, column = 1 } = error.place;
  return `\n    at ${file}:${line}:${column}`;
}
