/**
 * A device's process as a user has it, for bench/memory.ts to look at: a VM in sealed RAM with our edu
 * and one more function. Started with the other function's socket and an IPC channel; tells the
 * processes that there are, and ends when it is told to or its starter is gone.
 */
import { Edu } from '../src/devices/edu/edu.ts';
import { Machine } from '../src/machine/machine.ts';
import { parseRequesterId } from '../src/pci/requester-id.ts';
import { ensureParts } from '../src/setup/ensure-parts.ts';

/** What it tells when the guest is up and its driver has used both functions. */
export interface DeviceProcessReady {
  readonly controllerPid: number;
  readonly qemuPid: number;
  readonly ramPath: string;
}

const [socket] = process.argv.slice(2);
if (socket === undefined || process.send === undefined) {
  process.stderr.write('expected to be started by bench/memory.ts\n');
  process.exit(2);
}
const ended = new Promise<void>((resolve) => {
  process.once('disconnect', resolve);
  process.once('message', () => resolve());
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(name, () => resolve());
});

await using machine = await Machine.create({
  parts: await ensureParts({ offline: true }),
  memory: 'sealed',
  bytes: 256 * 2 ** 20,
});
const { controller, sealed } = machine;
if (controller === undefined || sealed === undefined) throw new Error('expected sealed memory');
machine.plug(new Edu(), parseRequesterId('00:04.0'));
const guest = await machine.boot({
  devices: [{ kind: 'vfio-user', address: parseRequesterId('00:05.0'), socket }],
});
await guest.insmod('sealbus_edu');
const devices = '/sys/bus/pci/devices/0000:00';
await guest.check(['cat', `${devices}:04.0/mmio_read_ns`, `${devices}:05.0/mmio_read_ns`]);
const buffer = 'for i in $(seq 64); do head -c 4096 /dev/zero > /dev/edu0; cat /dev/edu0; done';
await guest.check(['sh', '-c', `(${buffer}) > /dev/null`]);
const ready: DeviceProcessReady = {
  controllerPid: controller.pid,
  qemuPid: guest.pid,
  ramPath: sealed.path,
};
process.send(ready);
await ended;
await machine[Symbol.asyncDispose]();
if (process.connected) process.disconnect();
