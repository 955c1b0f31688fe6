import { describe, expect, it } from 'vitest';
import {
  ErrorEvent,
  EventType,
  NoticeEvent,
  SmartEvent,
} from '../../../../src/devices/nvme/admin/async-events.ts';
import { CriticalWarning } from '../../../../src/devices/nvme/admin/log-pages/health.ts';
import { bench, command } from './admin-bench.ts';

const ERROR_LOG = 0x01;
const HEALTH_LOG = 0x02;
const CHANGED_NAMESPACES = 0x04;
const RETAIN = 1 << 15;

const ALL_SMART = 0x1f;
const NAMESPACE_NOTICES = 1 << 8;

/** Completion dword 0 (NVMe 1.4 §5.2.1): log page 23:16, information 15:8, type 2:0. */
const NAMESPACE_CHANGED = 0x04_00_02;
const DOORBELL_REGISTER = 0x01_00_00;
const DOORBELL_VALUE = 0x01_01_00;
const TEMPERATURE = 0x02_01_01;
const RELIABILITY = 0x02_00_01;

function events(configuration = ALL_SMART | NAMESPACE_NOTICES) {
  const { admin, host, statusOf } = bench();
  const configure = (value: number) => statusOf({ opcode: 0x09, dword10: 0x0b, dword11: value });
  return {
    admin,
    host,
    configure,
    async ready() {
      await configure(configuration);
      return this;
    },
    request: (cid: number) => admin.execute(command({ opcode: 0x0c, cid })),
    raiseError: (info: number) => admin.events.raise(EventType.error, info, ERROR_LOG),
    read: (page: number, flags = 0) =>
      statusOf({ opcode: 0x02, dword10: (127 << 16) | page | flags }),
    /** What has been told by completing outstanding requests. */
    told: () => host.completions.map(([cid, { status, dword0 }]) => [cid, status, dword0]),
  };
}

describe('Asynchronous Event Request', () => {
  it('waits for an event, and tells type, information and log page', async () => {
    const { admin, request, told } = await events().ready();
    expect(request(9)).toBe('pending');
    expect(told()).toEqual([]);
    admin.namespaceChanged(1);
    expect(told()).toEqual([[9, 0, NAMESPACE_CHANGED]]);
  });

  it('is answered at once where an event waits', async () => {
    const { admin, request, told } = await events().ready();
    admin.namespaceChanged(1);
    expect(request(9)).toEqual({ status: 0, dword0: NAMESPACE_CHANGED });
    expect(request(10)).toBe('pending');
    expect(told()).toEqual([]);
  });

  it('is limited to the four that AERL says', async () => {
    const { request, raiseError, told } = await events().ready();
    for (let cid = 0; cid < 4; cid++) expect(request(cid)).toBe('pending');
    expect(request(4)).toEqual({ status: 0x105 });
    raiseError(ErrorEvent.invalidDoorbellRegister);
    expect(told()).toEqual([[0, 0, DOORBELL_REGISTER]]);
    expect(request(4)).toBe('pending');
  });

  it('can be aborted, once', async () => {
    const { admin, request, raiseError, told } = await events().ready();
    request(1);
    request(2);
    expect(admin.events.abort(1)).toBe(true);
    expect(admin.events.abort(1)).toBe(false);
    expect(admin.events.abort(3)).toBe(false);
    raiseError(ErrorEvent.invalidDoorbellRegister);
    expect(told()).toEqual([
      [1, 0x007, undefined],
      [2, 0, DOORBELL_REGISTER],
    ]);
  });

  it('is forgotten by a reset, as are events and masks', async () => {
    const { admin, configure, request, raiseError, told } = await events().ready();
    request(1);
    raiseError(ErrorEvent.invalidDoorbellRegister);
    request(2);
    raiseError(ErrorEvent.invalidDoorbellValue);
    admin.reset();
    expect(told()).toHaveLength(1);
    await configure(NAMESPACE_NOTICES);
    expect(request(3)).toBe('pending');
    expect(admin.events.abort(2)).toBe(false);
    raiseError(ErrorEvent.invalidDoorbellRegister);
    expect(told().at(-1)).toEqual([3, 0, DOORBELL_REGISTER]);
  });
});

describe('Events', () => {
  it('of a type that was told are masked until their log page is read', async () => {
    const { admin, request, read, told } = await events().ready();
    request(1);
    request(2);
    admin.namespaceChanged(1);
    admin.namespaceChanged(2);
    expect(told()).toHaveLength(1);
    await read(CHANGED_NAMESPACES, RETAIN);
    await read(HEALTH_LOG);
    expect(told()).toHaveLength(1);
    await read(CHANGED_NAMESPACES);
    // What waited told of a change that the host has just read.
    expect(told()).toHaveLength(1);
    admin.namespaceChanged(1);
    expect(told()).toEqual([
      [1, 0, NAMESPACE_CHANGED],
      [2, 0, NAMESPACE_CHANGED],
    ]);
  });

  it('of another type are told meanwhile', async () => {
    const { admin, request, raiseError, told } = await events().ready();
    for (const cid of [1, 2, 3]) request(cid);
    admin.namespaceChanged(1);
    raiseError(ErrorEvent.invalidDoorbellValue);
    admin.health.warn(CriticalWarning.reliability);
    expect(told().map(([, , dword0]) => dword0)).toEqual([
      NAMESPACE_CHANGED,
      DOORBELL_VALUE,
      RELIABILITY,
    ]);
  });

  it('that are errors wait behind the mask: what they say is in no log page', async () => {
    const { request, raiseError, read, told } = await events().ready();
    request(1);
    request(2);
    raiseError(ErrorEvent.invalidDoorbellRegister);
    raiseError(ErrorEvent.invalidDoorbellValue);
    expect(told()).toHaveLength(1);
    await read(ERROR_LOG);
    expect(told()).toEqual([
      [1, 0, DOORBELL_REGISTER],
      [2, 0, DOORBELL_VALUE],
    ]);
  });

  it('stay masked where reading the log page failed', async () => {
    const { host, request, raiseError, read, told } = await events().ready();
    request(1);
    request(2);
    raiseError(ErrorEvent.invalidDoorbellRegister);
    raiseError(ErrorEvent.invalidDoorbellValue);
    host.transferStatus = 0x004;
    await read(ERROR_LOG);
    expect(told()).toHaveLength(1);
  });

  it('are told once, however often they come before a request', async () => {
    const { admin, request, read, told } = await events().ready();
    for (let i = 0; i < 100; i++) admin.events.raise(EventType.error, 0, ERROR_LOG);
    expect(request(1)).toEqual({ status: 0, dword0: DOORBELL_REGISTER });
    await read(ERROR_LOG);
    expect(request(2)).toBe('pending');
    expect(told()).toEqual([]);
  });

  it('are kept up to a bound, and counted above it', async () => {
    const { admin } = await events().ready();
    for (let info = 0; info < 100; info++) admin.events.raise(EventType.vendor, info, 0xc0);
    expect(admin.events.dropped).toBe(84);
  });

  it('that the host did not enable are not told', async () => {
    const { admin, request, raiseError, told, configure } = await events(0).ready();
    request(1);
    admin.namespaceChanged(1);
    admin.health.warn(CriticalWarning.reliability);
    expect(told()).toEqual([]);
    await configure(ALL_SMART & ~CriticalWarning.temperature);
    admin.health.warn(CriticalWarning.temperature);
    expect(told().map(([, , dword0]) => dword0)).toEqual([RELIABILITY]);
    request(2);
    raiseError(ErrorEvent.invalidDoorbellRegister);
    expect(told()).toHaveLength(2);
  });

  it('are told when they are enabled, where their cause is there already: §5.21.1.11', async () => {
    const { admin, configure, request, told } = await events(0).ready();
    admin.namespaceChanged(1);
    admin.health.warn(CriticalWarning.spare);
    expect(request(1)).toBe('pending');
    expect(request(2)).toBe('pending');
    await configure(NAMESPACE_NOTICES);
    await configure(NAMESPACE_NOTICES | CriticalWarning.spare);
    expect(told()).toEqual([
      [1, 0, NAMESPACE_CHANGED],
      [2, 0, (HEALTH_LOG << 16) | (SmartEvent.spare << 8) | EventType.smart],
    ]);
  });

  it.each([
    [0b00001, SmartEvent.spare],
    [0b00010, SmartEvent.temperature],
    [0b00100, SmartEvent.reliability],
    [0b01000, SmartEvent.reliability],
  ])('tell of critical warning %i, once it comes up', async (warning, info) => {
    const { admin, request, read, told } = await events(warning).ready();
    request(1);
    request(2);
    admin.health.warn(0b01111);
    admin.health.warn(0b01111);
    await read(HEALTH_LOG);
    admin.health.warn(warning);
    expect(told()).toEqual([[1, 0, (HEALTH_LOG << 16) | (info << 8) | 1]]);
    admin.health.warn(warning, false);
    admin.health.warn(warning);
    expect(told()).toHaveLength(2);
  });

  it('of different kinds wait together, and are told in their order', async () => {
    const { admin, request, raiseError, read } = await events().ready();
    admin.namespaceChanged(1);
    raiseError(ErrorEvent.transientInternalError);
    raiseError(ErrorEvent.invalidDoorbellValue);
    admin.health.warn(CriticalWarning.reliability);
    const next = (cid: number) => (request(cid) as { dword0?: number }).dword0;
    expect([next(1), next(2), next(3)]).toEqual([NAMESPACE_CHANGED, 0x01_04_00, RELIABILITY]);
    await read(ERROR_LOG);
    expect(next(4)).toBe(DOORBELL_VALUE);
    expect(request(5)).toBe('pending');
  });

  it('that wait are dropped when the host disables them', async () => {
    const { admin, configure, request, raiseError } = await events().ready();
    raiseError(ErrorEvent.invalidDoorbellRegister);
    admin.events.raise(EventType.notice, NoticeEvent.namespaceAttributes, CHANGED_NAMESPACES);
    raiseError(ErrorEvent.invalidDoorbellValue);
    await configure(0);
    expect(request(1)).toEqual({ status: 0, dword0: DOORBELL_REGISTER });
    expect(request(2)).toBe('pending');
  });

  it('of the temperature come where a threshold is crossed, and again when it is once more', async () => {
    const { host, admin, request, read, told } = await events().ready();
    const threshold = (kelvin: number) =>
      admin.execute(command({ opcode: 0x09, dword10: 0x04, dword11: kelvin }));
    for (const cid of [1, 2]) request(cid);
    threshold(300);
    threshold(301);
    expect(told()).toEqual([[1, 0, TEMPERATURE]]);
    await read(HEALTH_LOG);
    expect(host.sent.at(-1)![0]).toBe(CriticalWarning.temperature);
    expect(told()).toHaveLength(1);
    threshold(343);
    threshold(300);
    expect(told()).toEqual([
      [1, 0, TEMPERATURE],
      [2, 0, TEMPERATURE],
    ]);
  });
});
