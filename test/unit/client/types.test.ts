import { expectTypeOf, test } from 'vitest';
import type { Adder } from '../../../examples/adder/adder.ts';
import type { Entropy } from '../../../examples/entropy/entropy.ts';
import type { BarRegion } from '../../../src/client/bar-region.ts';
import type { HostedVmm } from '../../../src/client/hosted-vmm.ts';
import type { Vmm } from '../../../src/client/vmm.ts';

/** What the compiler lets a test say; none of it runs. */
test('registers of a hosted device are known to the compiler by name, value and field', () => {
  expectTypeOf<HostedVmm<Adder>['bar0']>().toEqualTypeOf<BarRegion<Adder['bar0']>>();
  const uses = async (vmm: HostedVmm<Adder>) => {
    expectTypeOf(await vmm.bar0.read('sum')).toBeNumber();
    expectTypeOf(await vmm.bar0.read('source')).toEqualTypeOf<bigint>();
    const control = await vmm.bar0.read('control');
    expectTypeOf(control.done).toBeBoolean();
    expectTypeOf(control.value).toBeNumber();
    await vmm.bar0.write('source', 5);
    await vmm.bar0.write('source', 5n);
    await vmm.bar0.write('control', { go: true });
    await vmm.bar0.write('control', 1);
    // @ts-expect-error there is no such register
    await vmm.bar0.read('smu');
    // @ts-expect-error there is no such field
    await vmm.bar0.write('control', { og: true });
    // @ts-expect-error it is yes or no
    await vmm.bar0.write('control', { go: 1 });
    // @ts-expect-error the device is the Adder
    vmm.device.factorial;
  };
  expectTypeOf(uses).toBeFunction();
});

test('elements of arrays go by name and index, and a server’s registers by any name', () => {
  const uses = async (hosted: HostedVmm<Entropy>, remote: Vmm) => {
    expectTypeOf(await hosted.bar0.read('notify[0]')).toBeNumber();
    // @ts-expect-error an element, not the whole array
    await hosted.bar0.read('notify');
    expectTypeOf(await remote.bar0.read('anything')).toBeUnknown();
    expectTypeOf(await remote.bar3.read64(0)).toEqualTypeOf<bigint>();
  };
  expectTypeOf(uses).toBeFunction();
});
