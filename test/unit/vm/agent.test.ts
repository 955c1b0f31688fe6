import { duplexPair, Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { Agent } from '../../../src/vm/agent.ts';
import {
  agentVersion,
  encodeFrame,
  type Frame,
  FrameReader,
  frameType,
  payloadBytesMax,
  windowBytes,
} from '../../../src/vm/agent-protocol.ts';

/** An agent whose guest is this test: what it is sent, as frames. */
function withGuest() {
  const [port, guest] = duplexPair();
  const reader = new FrameReader();
  const frames: Frame[] = [];
  guest.on('data', (chunk: Buffer) => frames.push(...reader.push(chunk)));
  return { agent: new Agent(port), guest, frames };
}

const credits = (frames: readonly Frame[]) =>
  frames
    .filter(({ type, stream }) => type === frameType.credit && stream === 1)
    .reduce((sum, { payload }) => sum + payload.readUInt32LE(0), 0);

it('gives a command that it gave up its whole credit back, that it may end in the guest', async () => {
  const { agent, guest, frames } = withGuest();
  const stuck = new Writable({ write() {} });
  const command = agent.start(['yes'], { stdout: stuck, timeoutMs: 10 });
  const full = Buffer.alloc(payloadBytesMax);
  for (let sent = 0; sent < windowBytes; sent += full.length) {
    guest.write(encodeFrame(frameType.output, 1, 1, full));
  }
  expect(await command.ended).toEqual({ exitCode: 124, ended: 'timed-out' });
  await sleep(10);
  expect(credits(frames)).toBe(windowBytes);
  // What it says after that is dropped, and credited too.
  guest.write(encodeFrame(frameType.output, 1, 1, Buffer.alloc(100)));
  await sleep(10);
  expect(credits(frames)).toBe(windowBytes + 100);
});

it('gives no credit for what is not written yet', async () => {
  const { agent, guest, frames } = withGuest();
  const written: (() => void)[] = [];
  const sink = new Writable({ write: (_chunk, _encoding, done) => void written.push(done) });
  agent.start(['yes'], { stdout: sink });
  guest.write(encodeFrame(frameType.output, 1, 1, Buffer.alloc(10)));
  await sleep(10);
  expect(credits(frames)).toBe(0);
  written[0]?.();
  await sleep(10);
  expect(credits(frames)).toBe(10);
  agent.end(new Error('over'));
});

describe('an agent’s first word', () => {
  const hello = (release: string) => {
    const payload = Buffer.alloc(8 + release.length);
    payload.writeUInt32LE(agentVersion, 0);
    payload.writeUInt32LE(1234, 4);
    payload.write(release, 8);
    return encodeFrame(frameType.hello, 0, 0, payload);
  };
  const turn = () => sleep(5);

  it('comes once more after a reboot, and ends what ran before it', async () => {
    const { agent, guest } = withGuest();
    guest.write(hello('6.12'));
    expect(await agent.hello).toEqual({ kernelRelease: '6.12', uptimeMs: 1234 });
    const back = agent.nextHello();
    const command = agent.start(['reboot']);
    // Half a frame, and then the machine is reset.
    guest.write(encodeFrame(frameType.output, 1, 1, Buffer.alloc(100)).subarray(0, 50));
    await turn();
    agent.restarted(new Error('reset'));
    await expect(command.ended).rejects.toThrow('reset');
    guest.write(hello('6.13'));
    expect(await back).toMatchObject({ kernelRelease: '6.13' });
    const next = agent.start(['true']);
    guest.write(encodeFrame(frameType.exit, 2, 0, Buffer.alloc(8)));
    expect(await next.ended).toEqual({ exitCode: 0, ended: 'exited' });
  });

  it('is asked for again of one that runs already', async () => {
    const { agent, guest, frames } = withGuest();
    agent.greet();
    await turn();
    expect(frames).toMatchObject([{ type: frameType.greet, session: 0 }]);
    guest.write(hello('6.12'));
    expect((await agent.hello).kernelRelease).toBe('6.12');
  });

  it('is not waited for where the guest has gone', async () => {
    const { agent } = withGuest();
    const waiting = agent.nextHello();
    agent.end(new Error('gone'));
    await expect(waiting).rejects.toThrow('gone');
    await expect(agent.nextHello()).rejects.toThrow('gone');
  });
});
