/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The device's registers, and what the parts of its driver know of each other.
 */
#ifndef SEALBUS_EDU_DEVICE_H
#define SEALBUS_EDU_DEVICE_H

#include <linux/bits.h>
#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/kref.h>
#include <linux/miscdevice.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/spinlock.h>

#include "sealbus_edu.h"

#define EDU_VENDOR		0x1234
#define EDU_DEVICE		0x11e8
#define EDU_BAR			0

#define EDU_IDENTIFICATION	0x00
#define   EDU_ID_MAGIC		GENMASK(15, 0)
#define   EDU_ID_MAGIC_VALUE	0x00ed
#define EDU_LIVENESS		0x04
#define EDU_FACTORIAL		0x08
#define EDU_STATUS		0x20
#define   EDU_STATUS_COMPUTING	BIT(0)
#define   EDU_STATUS_RAISE	BIT(7)
#define EDU_IRQ_STATUS		0x24
#define   EDU_IRQ_FACTORIAL	BIT(0)
#define   EDU_IRQ_DMA		BIT(8)
#define EDU_IRQ_RAISE		0x60
#define EDU_IRQ_ACKNOWLEDGE	0x64
#define EDU_DMA_SOURCE		0x80
#define EDU_DMA_DESTINATION	0x88
#define EDU_DMA_COUNT		0x90
#define EDU_DMA_COMMAND		0x98
#define   EDU_DMA_START		BIT(0)
#define   EDU_DMA_TO_MEMORY	BIT(1)
#define   EDU_DMA_INTERRUPT	BIT(2)

/* Where its DMA engine sees the device's own buffer. */
#define EDU_BUFFER_ADDRESS	0x40000
#define EDU_DMA_BITS		28

#define EDU_ROUNDS_DEFAULT	1000
#define EDU_ROUNDS_MAX		100000
/* What latency rounds raise: no bit that means something. */
#define EDU_IRQ_PROBE		BIT(16)

struct edu {
	struct kref refs;
	struct miscdevice misc;
	char name[16];
	int id;

	/* Held around every use of the device; guards what follows. */
	struct mutex lock;
	struct pci_dev *pdev;
	void __iomem *regs;
	bool gone;		/* unbound: no register, no DMA any more */
	bool wedged;		/* a DMA did not end: its memory is never freed */
	void *staging;		/* one page for streaming DMA */
	void *shared;		/* EDU_SHARED_BYTES of coherent memory */
	dma_addr_t shared_dma;
	u32 rounds;

	bool msi;
	struct completion done;	/* an interrupt of a kind that is waited for */
	u32 awaited;
	spinlock_t irq_lock;	/* guards awaited, seen, irq_at, irq_count */
	u32 seen;
	u64 irq_at;
	u64 irq_count;

	unsigned long opened;	/* bit 0: one user at a time */
	struct file *user;
};

/* sealbus_edu_main.c: how long what ends in an interrupt may take */
extern unsigned int edu_timeout_ms;

/* sealbus_edu_dma.c */
irqreturn_t edu_interrupt(int irq, void *data);
void edu_expect(struct edu *edu, u32 interrupts);
int edu_wait(struct edu *edu);
int edu_lock(struct edu *edu);
int edu_dma(struct edu *edu, dma_addr_t memory, u32 device_offset, u32 length,
	    bool to_memory);
int edu_stream(struct edu *edu, u32 device_offset, u32 length, bool to_memory);

/* sealbus_edu_file.c */
extern const struct file_operations edu_fops;
void edu_release_memory(struct kref *refs);

/* sealbus_edu_attributes.c */
extern const struct attribute_group *edu_groups[];

#endif
