import { fileFlags, O_NONBLOCK, setFileFlags } from '../../ffi/libc.ts';
import { type KeySlot, keySlot } from '../../keys/key-slot.ts';
import type { KeyTable } from '../../keys/key-table.ts';
import { rotationDuty } from '../../keys/rotation-duty.ts';
import type { SlotDescription } from '../../keys/slot-lifecycle.ts';
import { type VmId, vmId } from '../../keys/vm-id.ts';
import type { DescriptorReceiver } from '../descriptor-channel.ts';
import type { KeyAnswers, KeyRequest } from './key-messages.ts';
import type { Rotations } from './rotations.ts';

/** Does what the device's process asks of the key table. */
export class KeyRequests {
  readonly #keys: KeyTable;
  readonly #rotations: Rotations;
  readonly #descriptors: DescriptorReceiver;

  constructor(keys: KeyTable, rotations: Rotations, descriptors: DescriptorReceiver) {
    this.#keys = keys;
    this.#rotations = rotations;
    this.#descriptors = descriptors;
  }

  /** @throws Error with the words for the asker, who may have asked for anything */
  handle(request: KeyRequest): KeyAnswers[keyof KeyAnswers] {
    const keys = this.#keys;
    const slot = keySlot(request.slot);
    switch (request.op) {
      case 'generate-key':
        keys.generate(slot, { vm: optionalVm(request.vm), keyBits: request.keyBits });
        break;
      case 'load-key': {
        const options = { vm: optionalVm(request.vm), keyBits: request.keyBits };
        this.#withKey(request.descriptor, (fd) => keys.load(slot, fd, options));
        break;
      }
      case 'bind-key':
        keys.bind(slot, vmId(request.vm));
        break;
      case 'activate-key':
        keys.activate(slot);
        break;
      case 'rotate-key':
        this.#rotate(slot, request);
        break;
      case 'pause-rotation':
        return this.#rotations.pause(slot);
      case 'resume-rotation':
        return this.#rotations.resume(slot);
      case 'revoke-key':
        return this.#withdraw(slot, () => keys.revoke(slot));
      case 'destroy-key':
        return this.#withdraw(slot, () => keys.destroy(slot));
    }
    return keys.describe(slot);
  }

  #rotate(slot: KeySlot, request: Extract<KeyRequest, { op: 'rotate-key' }>): void {
    const { descriptor, keyBits } = request;
    const duty = request.duty === undefined ? undefined : rotationDuty(request.duty);
    const begin = (fd: number | undefined) => this.#rotations.begin(slot, { fd, keyBits, duty });
    if (descriptor === undefined) begin(undefined);
    else this.#withKey(descriptor, begin);
  }

  /** The keys are wiped when `change` returns, whatever the words of it do. */
  #withdraw(slot: KeySlot, change: () => void): SlotDescription {
    change();
    this.#rotations.drop(slot);
    return this.#keys.describe(slot);
  }

  /** This thread answers the guests: it must not wait for whoever writes a key, and what is not there is missing. */
  #withKey(number: number, use: (fd: number) => void): void {
    this.#descriptors.with(number, (fd) => {
      const flags = fileFlags(fd);
      setFileFlags(fd, flags | O_NONBLOCK);
      try {
        use(fd);
      } finally {
        setFileFlags(fd, flags);
      }
    });
  }
}

function optionalVm(vm: number | undefined): VmId | undefined {
  return vm === undefined ? undefined : vmId(vm);
}
