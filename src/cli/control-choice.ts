/** Which running `sealbus serve` a command speaks to. */
import { Option } from 'commander';
import { ControlClient } from '../serve/control/control-client.ts';
import { controlSockets } from '../serve/service.ts';

export interface ControlFlags {
  readonly socket?: string;
  readonly json?: boolean;
}

export function socketOption(): Option {
  return new Option(
    '--socket <path>',
    'the control socket, where several serve at a time (serve prints it)',
  );
}

export function jsonOption(): Option {
  return new Option('--json', 'print JSON');
}

/** Does something with the one that serves. @throws Error where none does, or several; ControlError */
export async function withControl<T>(
  { socket }: ControlFlags,
  work: (client: ControlClient) => Promise<T>,
): Promise<T> {
  using client = new ControlClient(socket ?? theOne());
  return await work(client);
}

function theOne(): string {
  const [one, ...more] = controlSockets();
  if (one === undefined) {
    throw new Error(
      'expected a sealbus serve of this user that runs, got none: start one, or name its --socket',
    );
  }
  if (more.length > 0) {
    throw new Error(
      `expected one sealbus serve, got ${more.length + 1}: choose by --socket\n${[one, ...more].join('\n')}`,
    );
  }
  return one;
}
