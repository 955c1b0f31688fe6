import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { Command } from 'commander';
import { atPlace } from '../../serve/config/config-place.ts';
import { parseServeConfig } from '../../serve/config/parse-serve-config.ts';
import { type MetricsAddress, parseMetricsAddress } from '../../serve/record/metrics-server.ts';
import { Service } from '../../serve/service.ts';
import { asArgument } from '../as-argument.ts';
import { Interrupted } from '../exit-code.ts';
import { expectInherited } from '../inherited-descriptor.ts';
import { interruptible } from '../interruption.ts';
import { kernelOption } from '../kernel-option.ts';
import { acceleratorOption } from './demo.ts';
import { readyParts } from './setup.ts';

interface ServeFlags {
  readonly kernel?: string;
  readonly accel: 'auto' | 'kvm' | 'tcg';
  readonly json?: boolean;
  readonly record?: string;
  readonly metrics?: MetricsAddress;
  readonly check?: boolean;
}

export function serveCommand(): Command {
  return new Command('serve')
    .description(
      'serve any number of VMs: their sealed RAM and their functions, for QEMUs of your own',
    )
    .argument('<config>', 'VMs and functions, YAML or JSON (docs/serving.md)')
    .option('--json', 'print what is served as one JSON object')
    .option('--check', 'only say whether the configuration is right')
    .option('--record <file>', 'append each binding, key event and refused DMA as a line of JSON')
    .option(
      '--metrics <address>',
      'counters for a Prometheus server, over HTTP on loopback, such as 127.0.0.1:9273',
      metricsAddress,
    )
    .addOption(acceleratorOption())
    .addOption(kernelOption())
    .addHelpText(
      'after',
      '\nPrints for each VM the QEMU that boots against it, and stays until SIGTERM or Ctrl-C; then a QEMU' +
        '\nthat is attached loses its devices and its memory, so end it first. sealbus ps, inspect, key, bind,' +
        '\nvm and subsystem speak to it meanwhile.' +
        '\n\nExit code: 0 after SIGTERM or Ctrl-C, 1 where something was not to be had.',
    )
    .action(async (config: string, flags: ServeFlags) => {
      process.exitCode = await untilSignal((signal) => serve(config, flags, signal));
    });
}

/** A signal is how serving ends, not how it fails. */
async function untilSignal(work: (signal: AbortSignal) => Promise<void>): Promise<number> {
  try {
    await interruptible(work);
  } catch (error) {
    if (!(error instanceof Interrupted)) throw error;
  }
  return 0;
}

async function serve(path: string, flags: ServeFlags, signal: AbortSignal): Promise<void> {
  const config = parseServeConfig(readFileSync(path, 'utf8'), path, resolve(dirname(path)));
  if (flags.check) return;
  for (const { key } of config.vms) {
    const { descriptor } = key;
    if (descriptor !== undefined) await atPlace(key.place, () => expectInherited(descriptor));
  }
  const parts = await readyParts(signal, flags.kernel);
  const { accel: accelerator, record, metrics } = flags;
  const memory = config.vms.some((vm) => vm.memory === 'sealed') ? 'sealed' : 'plain';
  await using service = await Service.start({
    ...{ config, parts, memory, accelerator },
    ...(record === undefined ? {} : { record }),
    ...(metrics === undefined ? {} : { metrics }),
    log: (message) => void process.stderr.write(`sealbus: ${message}\n`),
  });
  signal.throwIfAborted();
  process.stdout.write(flags.json ? `${JSON.stringify(asJson(service))}\n` : asText(service));
  const { lost } = service.host.platform;
  await new Promise<void>((end) => {
    for (const one of [signal, lost]) one.addEventListener('abort', () => end(), { once: true });
    if (signal.aborted || lost.aborted) end();
  });
  if (lost.aborted && !signal.aborted) throw lost.reason;
}

function asJson({ host, controlPath, metricsPort }: Service) {
  return {
    control: controlPath,
    ...(metricsPort === undefined ? {} : { metricsPort }),
    subsystems: host.subsystems.all,
    vms: host.vms.map(({ name, machine, functions, command }) => ({
      ...{ name, vm: machine.vm, slot: machine.slot, memory: machine.mode, functions },
      ...{ command: command.text, argv: command.words, env: command.env },
    })),
  };
}

function asText({ host, controlPath, metricsPort }: Service): string {
  const lines = [`# control socket: ${controlPath}`];
  if (metricsPort !== undefined) lines.push(`# metrics: port ${metricsPort}`);
  for (const { name, machine, functions, command } of host.vms) {
    const { vm, slot, mode } = machine;
    const clear = mode === 'plain' ? ', NOTHING ENCRYPTED' : '';
    lines.push('', `# VM ${name}: number ${vm}, key slot ${slot}, memory ${mode}${clear}`);
    for (const { rid, address, subsystem } of functions) {
      const of = subsystem && `, function ${subsystem.function} of subsystem ${subsystem.name}`;
      lines.push(`#   ${address} in the guest is ${rid}${of ?? ''}`);
    }
    lines.push(command.text);
  }
  return `${lines.join('\n')}\n`;
}

function metricsAddress(text: string): MetricsAddress {
  return asArgument(parseMetricsAddress, text);
}
