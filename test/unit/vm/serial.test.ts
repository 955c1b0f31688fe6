import { PassThrough } from 'node:stream';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SerialConsole } from '../../../src/vm/serial.ts';
import { TextTail } from '../../../src/vm/text-tail.ts';
import { GuestPanicError } from '../../../src/vm/vm-error.ts';

describe('the serial console', () => {
  it('finds what was said before it was asked, and what comes later', async () => {
    const stream = new PassThrough();
    const console = new SerialConsole(stream);
    stream.write('login: ');
    await expect(console.expect(/login/, { timeoutMs: 500 })).resolves.toBeTruthy();
    const later = console.expect(/ready (\d+)/, { timeoutMs: 500 });
    stream.write('rea');
    stream.write('dy 42\r\n');
    expect((await later)[1]).toBe('42');
  });

  it('names what it waited for, and the last lines, when it gives up', async () => {
    const stream = new PassThrough();
    const console = new SerialConsole(stream);
    stream.write('one\r\ntwo\r\n');
    const error = await console
      .expect(/three/, { timeoutMs: 20, what: 'the count to reach' })
      .catch((reason) => reason);
    expect(error.message).toMatch(/the count to reach \/three\/.*0.02 s/s);
    expect(error.message).toMatch(/ {4}one\n {4}two/);
  });

  it('fails at once where the stream closes', async () => {
    const stream = new PassThrough();
    const waiting = new SerialConsole(stream).expect(/never/, { timeoutMs: 5000 });
    stream.destroy();
    await expect(waiting).rejects.toThrow(/closed/);
  });

  it('sees a panic however it is cut, once, and fails whoever waits', async () => {
    const text = '[ 1.0] Kernel panic - not syncing: VFS: no root\r\n';
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: text.length - 1 }), async (cut) => {
        const stream = new PassThrough();
        const console = new SerialConsole(stream);
        let panics = 0;
        console.onPanic(() => panics++);
        const waiting = console.expect(/never/, { timeoutMs: 5000 }).catch((reason) => reason);
        stream.write(text.slice(0, cut));
        stream.write(text.slice(cut));
        stream.write(text);
        expect(await waiting).toBeInstanceOf(GuestPanicError);
        expect(panics).toBe(1);
        expect(console.panic).toBe('Kernel panic - not syncing: VFS: no root');
      }),
      { numRuns: 25 },
    );
  });

  it('has the whole line of a panic that comes byte by byte, or that the end cuts off', async () => {
    const words = 'Kernel panic - not syncing: VFS: Unable to mount root fs';
    for (const end of ['\r\n', '']) {
      const stream = new PassThrough();
      const console = new SerialConsole(stream);
      for (const byte of Buffer.from(`[ 1.0] ${words}${end}`)) stream.write(Buffer.of(byte));
      stream.end();
      await new Promise((resolve) => stream.once('close', resolve));
      expect(console.panic).toBe(words);
    }
  });

  it('picks the lines in which the kernel complains', async () => {
    const stream = new PassThrough();
    const console = new SerialConsole(stream);
    stream.write('fine\nWARNING: CPU: 0 PID: 1 at x\nBUG: kernel NULL pointer\nfine too\n');
    await console.expect(/too/, { timeoutMs: 500 });
    expect(console.complaints()).toHaveLength(2);
  });
});

describe('a text tail', () => {
  it('keeps its bound too where it is read after each piece', () => {
    const tail = new TextTail(100);
    for (let i = 0; i < 200; i++) {
      tail.push(Buffer.from('0123456789'));
      expect(tail.toString().length).toBeLessThanOrEqual(110);
    }
    expect(tail.toString().length + tail.droppedBytes).toBe(2000);
  });

  it('keeps the end, and at least its bound, of whatever comes', () => {
    fc.assert(
      fc.property(
        fc.array(fc.stringMatching(/^[a-z\n]{1,40}$/)),
        fc.integer({ min: 1, max: 100 }),
        (chunks, bound) => {
          const tail = new TextTail(bound);
          for (const chunk of chunks) tail.push(Buffer.from(chunk));
          const all = chunks.join('');
          const kept = tail.toString();
          expect(all.endsWith(kept)).toBe(true);
          expect(kept.length).toBeGreaterThanOrEqual(Math.min(bound, all.length));
          expect(kept.length).toBeLessThan(bound + 40);
          expect(kept.length + tail.droppedBytes).toBe(all.length);
        },
      ),
    );
  });
});
