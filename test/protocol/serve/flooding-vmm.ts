/**
 * A VMM that asks its function for a register without end, as often at once as it takes the answers, until it is
 * killed. For serve-process.test.ts. Prints a line for each thousand answers.
 */
import { VfioUserClient } from '../../../src/vfio-user/client/client.ts';

const AT_ONCE = 50;

const client = await VfioUserClient.connect(process.argv[2] ?? '');
for (;;) {
  for (let answers = 0; answers < 1000; answers += AT_ONCE) {
    await Promise.all(Array.from({ length: AT_ONCE }, () => client.readRegister(0, 0)));
  }
  process.stdout.write('answered\n');
}
