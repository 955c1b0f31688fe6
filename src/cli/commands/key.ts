import { setTimeout as sleep } from 'node:timers/promises';
import { Command, InvalidArgumentError, Option } from 'commander';
import { rotationDuty } from '../../keys/rotation-duty.ts';
import type { ControlClient } from '../../serve/control/control-client.ts';
import type { KeyDescription } from '../../serve/control/operations.ts';
import { asArgument } from '../as-argument.ts';
import { columns } from '../columns.ts';
import { type ControlFlags, jsonOption, socketOption, withControl } from '../control-choice.ts';
import { expectInherited } from '../inherited-descriptor.ts';

interface KeyFlags extends ControlFlags {
  readonly vm?: string;
  readonly bits?: 128 | 256;
  readonly fd?: number;
  readonly duty?: number;
  readonly wait?: boolean;
}

const LOOK_MS = 100;

export function keyCommand(): Command {
  const key = new Command('key').description(
    'key slots of sealbus serve: every step of their life',
  );
  const step = (name: string, description: string, slot: string | undefined) => {
    const command = new Command(name).description(description);
    if (slot !== undefined) command.argument('<slot>', slot);
    return command.addOption(jsonOption()).addOption(socketOption());
  };
  const number = 'number of a key slot, 0 to 4095';
  const either = 'number of a key slot, or name of the VM whose own it is';
  const vmFlag = () => new Option('--vm <name>', 'binds the slot to that VM in the same step');
  const bitsFlag = () =>
    new Option('--bits <n>', 'AES-XTS with keys of so many bits').argParser(keyBits);
  const fdFlag = (text: string) => new Option('--fd <n>', text).argParser(descriptor);

  key.addCommand(
    step('list', 'slots that are not empty', undefined).action(async (flags: KeyFlags) => {
      const keys = await withControl(flags, (client) => client.ask('keys', {}));
      process.stdout.write(flags.json ? `${JSON.stringify(keys)}\n` : table(keys));
    }),
  );
  key.addCommand(
    step('generate', 'makes a random key in an empty slot', number)
      .addOption(vmFlag())
      .addOption(bitsFlag())
      .action((slot: string, flags: KeyFlags) =>
        tell(flags, (client) =>
          client.ask('key-generate', { slot: slotNumber(slot), ...vmOf(flags), ...bitsOf(flags) }),
        ),
      ),
  );
  key.addCommand(
    step(
      'load',
      'takes a key for an empty slot from a file, pipe or socket: Key1, then Key2',
      number,
    )
      .addOption(fdFlag('the descriptor that it is read from').default(0, 'standard input'))
      .addOption(vmFlag())
      .addOption(bitsFlag())
      .action((slot: string, flags: KeyFlags) =>
        tell(flags, (client) => {
          const { fd = 0 } = flags;
          expectInherited(fd);
          const fields = { slot: slotNumber(slot), ...vmOf(flags), ...bitsOf(flags) };
          return client.ask('key-load', fields, { descriptor: fd });
        }),
      ),
  );
  key.addCommand(
    step('bind', 'gives a loaded slot to a VM', number)
      .argument('<vm>', 'its name')
      .action((slot: string, vm: string, flags: KeyFlags) =>
        tell(flags, (client) => client.ask('key-bind', { slot: slotNumber(slot), vm })),
      ),
  );
  key.addCommand(
    step('activate', 'has a loaded slot serve its VM', number).action(
      (slot: string, flags: KeyFlags) =>
        tell(flags, (client) => client.ask('key-activate', { slot: slotNumber(slot) })),
    ),
  );
  key.addCommand(
    step('rotate', 'encrypts memory anew under another key, while the VM runs', either)
      .addOption(fdFlag('a descriptor that the new key is read from; a random one without'))
      .addOption(bitsFlag())
      .addOption(
        new Option(
          '--duty <percent>',
          'of the thread that serves memory, while guests are at memory: little disturbs them little, and takes longer (60)',
        ).argParser(percent),
      )
      .option('--wait', 'until it is done')
      .action((slot: string, flags: KeyFlags) =>
        tell(flags, async (client) => {
          const fields = {
            ...{ slot, ...bitsOf(flags), descriptor: flags.fd !== undefined },
            ...(flags.duty === undefined ? {} : { duty: flags.duty }),
          };
          if (flags.fd !== undefined) expectInherited(flags.fd);
          const options = flags.fd === undefined ? {} : { descriptor: flags.fd };
          const begun = await client.ask('key-rotate', fields, options);
          return flags.wait ? await rotated(client, begun) : begun;
        }),
      ),
  );
  for (const [name, description] of [
    ['pause', 'stops a rotation where it is'],
    ['resume', 'has a rotation go on'],
    ['revoke', 'takes a slot out of use at once, and wipes its keys'],
    ['destroy', 'frees a slot: nobody can read any more what is under its keys'],
  ] as const) {
    key.addCommand(
      step(name, description, either).action((slot: string, flags: KeyFlags) =>
        tell(flags, (client) => client.ask(`key-${name}`, { slot })),
      ),
    );
  }
  return key;
}

async function tell(
  flags: KeyFlags,
  work: (client: ControlClient) => Promise<KeyDescription>,
): Promise<void> {
  const key = await withControl(flags, work);
  process.stdout.write(flags.json ? `${JSON.stringify(key)}\n` : table([key]));
}

/** @throws Error where its keys were wiped before it was done */
async function rotated(client: ControlClient, begun: KeyDescription): Promise<KeyDescription> {
  for (;;) {
    const keys = await client.ask('keys', {});
    const now = keys.find(({ slot }) => slot === begun.slot);
    if (now === undefined || now.state === 'revoked' || now.generation !== begun.generation) {
      throw new Error(`expected the rotation of slot ${begun.slot} to be done, got its keys' end`);
    }
    if (now.state === 'active') return now;
    await sleep(LOOK_MS);
  }
}

function table(keys: readonly KeyDescription[]): string {
  const rows = keys.map(({ slot, state, vm, generation, keyBits, rotation }) => [
    ...[String(slot), state, vm === null ? '-' : String(vm), String(generation)],
    keyBits === null ? '-' : String(keyBits),
    rotation === null || state !== 'rotating'
      ? '-'
      : `${rotation.state}, ${rotation.passedPages} of ${rotation.pages} pages`,
  ]);
  return columns(['SLOT', 'STATE', 'VM', 'GEN', 'BITS', 'ROTATION'], rows);
}

function vmOf({ vm }: KeyFlags): { readonly vm?: string } {
  return vm === undefined ? {} : { vm };
}

function bitsOf({ bits }: KeyFlags): { readonly bits?: number } {
  return bits === undefined ? {} : { bits };
}

function slotNumber(text: string): number {
  if (/^\d{1,4}$/.test(text)) return Number(text);
  throw new Error(`expected the number of a key slot, 0 to 4095, got ${JSON.stringify(text)}`);
}

function keyBits(text: string): 128 | 256 {
  if (text === '128' || text === '256') return Number(text) as 128 | 256;
  throw new InvalidArgumentError('expected 128 or 256');
}

/** @throws InvalidArgumentError */
function percent(text: string): number {
  return asArgument(
    (words) => rotationDuty(/^\d+$/.test(words) ? Number(words) : Number.NaN),
    text,
  );
}

function descriptor(text: string): number {
  if (/^\d{1,4}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('expected the number of an open descriptor, such as 3');
}
