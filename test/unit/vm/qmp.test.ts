import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { QmpClient, QmpError } from '../../../src/vm/qmp.ts';
import { VmTimeoutError } from '../../../src/vm/vm-error.ts';

const greeting =
  '{"QMP": {"version": {"qemu": {"micro": 3, "minor": 1, "major": 11}}, "capabilities": []}}\r\n';
const closers: (() => void)[] = [];
let sockets = 0;

/** The two ends of a real socket; the far end says what a test wants said, byte for byte. */
async function ends(): Promise<{ near: Socket; far: Socket; asked: string[] }> {
  const path = join(tmpdir(), `sealbus-qmp-${process.pid}-${sockets++}`);
  const server = createServer().listen(path);
  await new Promise((resolve) => server.once('listening', resolve));
  const { connect } = await import('node:net');
  const accepted = new Promise<Socket>((resolve) => server.once('connection', resolve));
  const near = connect(path);
  const far = await accepted;
  const asked: string[] = [];
  far.on('data', (chunk) => asked.push(...`${chunk}`.trim().split('\n')));
  far.on('error', () => {});
  closers.push(() => {
    near.destroy();
    far.destroy();
    server.close();
  });
  return { near, far, asked };
}

/** Answers each command in turn; the reply's id is filled in. */
function answer(far: Socket, ...replies: string[]): void {
  far.on('data', (chunk) => {
    for (const line of `${chunk}`.trim().split('\n')) {
      const { id } = JSON.parse(line);
      const reply = replies.shift();
      if (reply !== undefined) far.write(reply.replaceAll('ID', String(id)));
    }
  });
}

afterEach(() => {
  for (const close of closers.splice(0)) close();
});

const accepted = '{"return": {}, "id": ID}\n';

describe('the QMP client', () => {
  it('greets, negotiates and takes replies among events, cut anywhere', async () => {
    const { near, far, asked } = await ends();
    answer(far, accepted, '{"event": "STOP", "data": {}}\n{"return": {"status": "pau');
    far.write(greeting);
    const qmp = await QmpClient.connect(near);
    const events: string[] = [];
    qmp.onEvent(({ event }) => events.push(event));
    const status = qmp.execute('query-status');
    far.once('data', () => setTimeout(() => far.write('sed"}, "id": 2}\n'), 5));
    expect(await status).toEqual({ status: 'paused' });
    expect(events).toEqual(['STOP']);
    expect(await qmp.version).toBe('11.1.3');
    expect(asked.map((line) => JSON.parse(line).execute)).toEqual([
      'qmp_capabilities',
      'query-status',
    ]);
  });

  it('says what QEMU refused, and goes on', async () => {
    const { near, far } = await ends();
    const refused = '{"error": {"class": "GenericError", "desc": "no such device"}, "id": ID}\n';
    answer(far, accepted, refused, accepted);
    far.write(greeting);
    const qmp = await QmpClient.connect(near);
    const error = await qmp.execute('device_del', { id: 'x' }).catch((reason) => reason);
    expect(error).toBeInstanceOf(QmpError);
    expect(`${error}`).toContain('QEMU refused device_del: no such device (GenericError)');
    expect(await qmp.execute('stop')).toEqual({});
  });

  it('does not say back all that is sent as an error', async () => {
    const { near, far } = await ends();
    const long = `{"error": {"class": "${'c'.repeat(9999)}", "desc": "${'d'.repeat(9999)}"}, "id": ID}\n`;
    answer(far, accepted, long);
    far.write(greeting);
    const qmp = await QmpClient.connect(near);
    const error = await qmp.execute('stop').catch((reason) => reason);
    expect(error).toBeInstanceOf(QmpError);
    expect(`${error}`.length).toBeLessThan(2000);
  });

  it('gives up a greeting, and a reply, that does not come', async () => {
    const { near, far } = await ends();
    await expect(QmpClient.connect(near, 20)).rejects.toThrow(/greeting within 0.02 s/);
    const other = await ends();
    answer(other.far, accepted);
    other.far.write(greeting);
    const qmp = await QmpClient.connect(other.near);
    await expect(qmp.execute('stop', {}, 20)).rejects.toBeInstanceOf(VmTimeoutError);
    far.destroy();
  });

  it('fails what is under way when QEMU closes, and quits without complaint', async () => {
    const { near, far } = await ends();
    answer(far, accepted);
    far.write(greeting);
    const qmp = await QmpClient.connect(near);
    const waiting = expect(qmp.execute('query-status')).rejects.toThrow(/before it answered/);
    const event = expect(qmp.event('STOP', 60_000)).rejects.toThrow(/closed its QMP/);
    const quitting = qmp.quit();
    far.end();
    await waiting;
    await event;
    await quitting;
    await expect(qmp.event('STOP', 60_000)).rejects.toThrow(/closed its QMP/);
  });

  it.each(['not JSON\n', '[1]\n', '17\n'])('drops a peer that says %j', async (text) => {
    const { near, far } = await ends();
    far.write(text);
    await expect(QmpClient.connect(near, 1000)).rejects.toThrow(/expected QMP/);
  });
});
