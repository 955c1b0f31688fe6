import { expect, test } from 'vitest';
import { renderProgress } from '../../../src/setup/progress.ts';

function stream(isTTY: boolean) {
  const written: string[] = [];
  return { isTTY, columns: 80, write: (text: string) => written.push(text), written };
}

function feed(target: ReturnType<typeof stream>, env: Record<string, string>) {
  let time_ms = 0;
  const { event, end } = renderProgress(target, env, () => (time_ms += 100));
  event({ part: 'qemu', phase: 'downloading', done: 0, total: 100 });
  event({ part: 'qemu', phase: 'downloading', done: 50, total: 100 });
  event({ part: 'qemu', phase: 'ready' });
  end();
  return target.written;
}

test('in a pipe: one plain line a phase', () => {
  expect(feed(stream(false), {})).toEqual(['set-up: qemu: downloading\n', 'set-up: qemu: ready\n']);
});

test('on a terminal: one live line, replaced, with a share', () => {
  const text = feed(stream(true), {}).join('');
  expect(text).toContain('50 %');
  expect(text.split('\n')).toHaveLength(2);
  expect(text).toContain('\x1b[36m');
});

test('NO_COLOR takes the colours, not the live line', () => {
  const text = feed(stream(true), { NO_COLOR: '1' }).join('');
  expect(text).toContain('50 %');
  expect(text.replaceAll('\x1b[K', '')).not.toContain('\x1b');
});

test('with nothing to do it says nothing', () => {
  const target = stream(true);
  renderProgress(target, {}).end();
  expect(target.written).toEqual([]);
});
