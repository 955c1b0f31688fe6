/** What the SMART / Health Information log (02h) tells; the core counts (NVMe 1.4 §5.14.1.2). */
export class Health {
  /** Bytes of user data that reads, compares and verifies took; a number, for the I/O path. */
  bytesRead = 0;
  bytesWritten = 0;
  readCommands = 0;
  writeCommands = 0;
  /** Milliseconds that I/O commands were outstanding. */
  busyMs = 0;
  powerCycles = 1;
  /** Power was lost, or the function went, with CSTS.SHST not at "complete". */
  unsafeShutdowns = 0;
  mediaErrors = 0;
  /** Kelvin. */
  temperature = 313;
}
