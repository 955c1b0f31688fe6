/** Ten bugs that drivers are known for, each as a change of the edu driver's sources. */

export interface PlantedBug {
  /** A file of qemu/edu. */
  readonly file: string;
  /** Stands there exactly once. */
  readonly good: string;
  readonly bad: string;
}

export const plantedBugs = {
  'missing dma_sync': {
    file: 'sealbus_edu_dma.c',
    good: 'dma_unmap_single(dev, memory, length, direction);',
    bad: 'dma_unmap_single_attrs(dev, memory, length, direction, DMA_ATTR_SKIP_CPU_SYNC);',
  },
  'DMA after unmap': {
    file: 'sealbus_edu_dma.c',
    good: `	failed = edu_dma(edu, memory, device_offset, length, to_memory);
	if (!edu->wedged)
		dma_unmap_single(dev, memory, length, direction);`,
    bad: `	dma_unmap_single(dev, memory, length, direction);
	failed = edu_dma(edu, memory, device_offset, length, to_memory);`,
  },
  'wrong mask': {
    file: 'sealbus_edu_main.c',
    good: 'DMA_BIT_MASK(EDU_DMA_BITS)',
    bad: 'DMA_BIT_MASK(64)',
  },
  /** Acknowledges all causes and takes note of the lowest. */
  'missed interrupt': {
    file: 'sealbus_edu_dma.c',
    good: 'edu->seen |= status;',
    bad: 'edu->seen |= status & -status;',
  },
  /** An open file no longer keeps its device's state alive. */
  'use after free on unbind': {
    file: 'sealbus_edu_file.c',
    good: '	kref_get(&edu->refs);\n',
    bad: '',
  },
  'unchecked all-ones': {
    file: 'sealbus_edu_dma.c',
    good: `	if (command == ~0U)		/* it has left: nothing reaches memory any more */
		return -ENODEV;
`,
    bad: '',
  },
  'wrong endianness': {
    file: 'sealbus_edu_dma.c',
    good: 'writeq(length, edu->regs + EDU_DMA_COUNT);',
    bad: 'writeq(swab32(length), edu->regs + EDU_DMA_COUNT);',
  },
  'doorbell before the descriptor is written': {
    file: 'sealbus_edu_dma.c',
    good: `	writeq(length, edu->regs + EDU_DMA_COUNT);
	writeq(command, edu->regs + EDU_DMA_COMMAND);`,
    bad: `	writeq(command, edu->regs + EDU_DMA_COMMAND);
	writeq(length, edu->regs + EDU_DMA_COUNT);`,
  },
  'leak of a mapping': {
    file: 'sealbus_edu_dma.c',
    good: `	if (!edu->wedged)
		dma_unmap_single(dev, memory, length, direction);
`,
    bad: '',
  },
  'sleeping in the interrupt handler': {
    file: 'sealbus_edu_dma.c',
    good: '	spin_lock(&edu->irq_lock);\n	edu->irq_at = now;',
    bad: '	schedule_timeout_uninterruptible(1);\n	spin_lock(&edu->irq_lock);\n	edu->irq_at = now;',
  },
} as const satisfies Record<string, PlantedBug>;

export type PlantedBugName = keyof typeof plantedBugs;
