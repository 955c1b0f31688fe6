/**
 * DMA by message: a server that has no mapping of guest memory asks the client for its bytes.
 * vfio-user specification, VFIO_USER_DMA_READ and VFIO_USER_DMA_WRITE.
 */
import { COMMAND, ERRNO } from '../protocol.ts';
import { RequestRefused } from './connection.ts';

/** Address u64, count u64, before the data. */
const ACCESS_BYTES = 16;
/** What a client offers as max_data_xfer_size, and so the most that one request may ask for. */
const DATA_BYTES_MAX = 1024 * 1024;

/** The memory that a client has mapped into the server. */
export interface DmaMemory {
  /** Fills all of `into`. @throws RangeError where the range is not mapped */
  readInto(gpa: number, into: Uint8Array): void;
  /** Stores all of `from`. @throws RangeError where the range is not mapped */
  writeFrom(gpa: number, from: Uint8Array): void;
}

/** Answers the body of the reply. @throws RequestRefused with the errno for the server */
export function answerDma(
  memory: DmaMemory,
  command: number,
  body: Uint8Array<ArrayBuffer>,
): Uint8Array {
  if (command !== COMMAND.dmaRead && command !== COMMAND.dmaWrite) {
    throw new RequestRefused(`command ${command}`, ERRNO.EOPNOTSUPP);
  }
  if (body.length < ACCESS_BYTES) {
    throw new RequestRefused(`a DMA request of ${body.length} bytes`, ERRNO.EINVAL);
  }
  const view = new DataView(body.buffer, body.byteOffset, body.length);
  const address = Number(view.getBigUint64(0, true));
  const count = Number(view.getBigUint64(8, true));
  const data = body.subarray(ACCESS_BYTES);
  if (count > DATA_BYTES_MAX || (command === COMMAND.dmaWrite && data.length !== count)) {
    throw new RequestRefused(`a DMA of ${count} bytes with ${data.length}`, ERRNO.EINVAL);
  }
  const reading = command === COMMAND.dmaRead;
  const reply = new Uint8Array(ACCESS_BYTES + (reading ? count : 0));
  reply.set(body.subarray(0, ACCESS_BYTES));
  try {
    if (reading) memory.readInto(address, reply.subarray(ACCESS_BYTES));
    else memory.writeFrom(address, data);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new RequestRefused(error.message, ERRNO.EINVAL);
  }
  return reply;
}
