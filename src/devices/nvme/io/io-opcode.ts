/** Opcodes of the NVM command set: NVMe 1.4 Figure 346. */
export const IoOpcode = {
  flush: 0x00,
  write: 0x01,
  read: 0x02,
  compare: 0x05,
  writeZeroes: 0x08,
  datasetManagement: 0x09,
  verify: 0x0c,
} as const;
