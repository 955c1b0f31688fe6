/** Counters in Prometheus' text format (exposition format 0.0.4). */
import type { VmHost } from '../vm-host.ts';

type Labels = Readonly<Record<string, string | number>>;

/** One metric with its samples. */
class Metric {
  readonly #lines: string[];
  readonly #name: string;

  constructor(name: string, type: 'counter' | 'gauge', help: string) {
    this.#name = name;
    this.#lines = [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`];
  }

  sample(value: number, labels: Labels = {}): this {
    const pairs = Object.entries(labels).map(
      ([name, label]) => `${name}="${escaped(String(label))}"`,
    );
    this.#lines.push(`${this.#name}${pairs.length > 0 ? `{${pairs.join(',')}}` : ''} ${value}`);
    return this;
  }

  toString(): string {
    return this.#lines.join('\n');
  }
}

/** By name, without the `sealbus_`: those that end in `_total` only grow. */
export type OwnCounters = Readonly<
  Record<string, { readonly value: number; readonly help: string }>
>;

/** @param extra counters of who serves the text, by name */
export async function metricsText(host: VmHost, extra: OwnCounters = {}): Promise<string> {
  const { platform, recorder, vms } = host;
  const { iommu, keys } = platform;
  // Of one that has gone its number, as no name can be: each series comes once.
  const name = (vm: number | null) =>
    vms.find(({ machine }) => machine.vm === vm)?.name ?? (vm === null ? '' : `#${vm}`);
  const states = new Map<string, number>();
  for (const { state } of keys.list()) states.set(state, (states.get(state) ?? 0) + 1);

  const refused = new Metric('sealbus_dma_refused_total', 'counter', 'DMA that the IOMMU refused.');
  const mismatched = new Metric(
    'sealbus_dma_mismatched_total',
    'counter',
    'DMA that was done and met private pages in the clear, or shared ones through a key.',
  );
  const events = new Metric(
    'sealbus_events_total',
    'counter',
    'Bindings, key events, conversions of pages, and VMs and subsystems that came, went or changed.',
  );
  for (const { event, reason, vm, count } of recorder.counts()) {
    if (event === 'refused') refused.sample(count, { vm: name(vm), reason });
    else if (event === 'mismatched') mismatched.sample(count, { vm: name(vm), reason });
    else events.sample(count, { event, reason });
  }
  const slots = new Metric('sealbus_key_slots', 'gauge', 'Key slots that are not empty, by state.');
  for (const [state, count] of states) slots.sample(count, { state });
  const bytes = new Metric('sealbus_vm_memory_bytes', 'gauge', 'Guest memory.');
  const shared = new Metric('sealbus_vm_shared_bytes', 'gauge', 'Shared pages: in the clear.');
  const attached = new Metric(
    'sealbus_vm_functions_attached',
    'gauge',
    'Functions that a VMM is connected to.',
  );
  for (const vm of vms) {
    bytes.sample(vm.machine.bytes, { vm: vm.name, memory: vm.machine.mode });
    const { sealed } = vm.machine;
    if (sealed !== undefined) shared.sample(sealed.sharedBytes, { vm: vm.name });
    attached.sample(vm.attached, { vm: vm.name });
  }
  const metrics = [
    new Metric('sealbus_vms', 'gauge', 'VMs that are served.').sample(vms.length),
    bytes,
    shared,
    attached,
    new Metric('sealbus_device_table_entries', 'gauge', 'Functions that are bound.').sample(
      iommu.table.size,
    ),
    new Metric('sealbus_iotlb_hits_total', 'counter', 'Translations that the IOTLB had.').sample(
      iommu.iotlb.hits,
    ),
    new Metric('sealbus_iotlb_misses_total', 'counter', 'Translations that it had not.').sample(
      iommu.iotlb.misses,
    ),
    slots,
    refused,
    mismatched,
    events,
    ...(await memoryMetrics(host)),
    new Metric('sealbus_record_lines_total', 'counter', 'Lines of the record.').sample(
      recorder.total,
    ),
    ...Object.entries(extra).map(([key, { value, help }]) =>
      new Metric(`sealbus_${key}`, key.endsWith('_total') ? 'counter' : 'gauge', help).sample(
        value,
      ),
    ),
  ];
  return `${metrics.join('\n')}\n`;
}

const MEMORY_COUNTERS = {
  fills: 'Cache fills: pages are decrypted.',
  filledPages: 'Pages that were filled.',
  writeBacks: 'Write-backs of the cache: pages are encrypted.',
  writtenBackPages: 'Pages that were written back.',
  dmaReads: 'DMA reads of sealed memory.',
  dmaWrites: 'DMA writes of sealed memory.',
  convertedPages: 'Pages that were made shared or private.',
  slotRefusals: 'Accesses that the memory controller refused for their slot.',
} as const;

/** What the memory controller counts of each VM's sealed memory. */
async function memoryMetrics({ vms }: VmHost): Promise<Metric[]> {
  const sealed = vms.filter(({ machine }) => machine.sealed !== undefined);
  const counted = await Promise.all(
    // One that goes meanwhile has none.
    sealed.map(({ name, machine }) =>
      machine.sealed?.counters().then(
        (counters) => ({ name, counters }),
        () => undefined,
      ),
    ),
  );
  return Object.entries(MEMORY_COUNTERS).map(([key, help]) => {
    const snake = key.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    const metric = new Metric(`sealbus_memory_${snake}_total`, 'counter', help);
    for (const one of counted) {
      if (one !== undefined)
        metric.sample(one.counters[key as keyof typeof MEMORY_COUNTERS], { vm: one.name });
    }
    return metric;
  });
}

function escaped(label: string): string {
  return label.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
}
