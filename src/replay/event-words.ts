/** Events of a trace in words, a line each. */
import type { RegisterEvent, TraceEvent } from '../trace/event.ts';

/** Bytes of data that are written out. */
const DATA_BYTES_SHOWN = 16;

export function eventWords(event: TraceEvent): string {
  switch (event.kind) {
    case 'function':
      return `${event.name} is plugged in`;
    case 'register':
      return `${event.direction} ${registerName(event)} ${event.direction === 'read' ? '=' : '←'} ${registerValue(event)}`;
    case 'dma':
      return `DMA ${event.direction} of ${event.bytes} bytes at ${event.iova}${dataWords(event.data)}`;
    case 'fault':
      return `DMA ${event.direction} of ${event.bytes} bytes at ${event.iova}, refused: ${event.reason}`;
    case 'interrupt':
      if (event.how === 'intx') return event.asserted ? 'INTA# asserted' : 'INTA# deasserted';
      return `${event.how === 'msi' ? 'MSI' : 'MSI-X'} vector ${event.vector ?? '?'}`;
    case 'interrupt-mode':
      return `asks which interrupts are enabled: ${event.mode}`;
    case 'reset':
      return `reset: ${event.cause}`;
    case 'alarm':
      return `alarm ${event.alarm} rings`;
    case 'unmodelled':
      return `unmodelled ${event.direction} of ${event.width} bytes at ${placeWords(event)}`;
    case 'device-error':
      return `the device throws: ${event.message}`;
    case 'injected':
      return `fault on demand ${event.fault}: ${event.detail}`;
    case 'iommu':
      return `IOMMU ${event.command}: status ${event.status}`;
  }
}

/** A register by name, or its place where it has none. */
export function registerName({ register, bar, offset }: RegisterEvent): string {
  return register ?? placeWords({ bar, offset });
}

/** The value, and its fields by name. */
export function registerValue({ value, fields }: Pick<RegisterEvent, 'value' | 'fields'>): string {
  const named = Object.entries(fields ?? {}).map(([name, field]) => `${name} ${field}`);
  return named.length === 0 ? value : `${value} (${named.join(', ')})`;
}

/** The first bytes, as hexadecimal digits. */
export function dataWords(digits: string | undefined): string {
  if (digits === undefined || digits === '') return '';
  const shown = digits.slice(0, DATA_BYTES_SHOWN * 2).replaceAll(/..(?=.)/g, '$& ');
  return `: ${shown}${digits.length > DATA_BYTES_SHOWN * 2 ? ' …' : ''}`;
}

function placeWords({ bar, offset }: { readonly bar: number; readonly offset: number }): string {
  return `BAR${bar}+0x${offset.toString(16)}`;
}
