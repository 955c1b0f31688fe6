// SPDX-License-Identifier: GPL-2.0
/*
 * Interrupts that are waited for, and the DMA that ends in one.
 */
#include <linux/dma-mapping.h>

#include "sealbus_edu_device.h"

irqreturn_t edu_interrupt(int irq, void *data)
{
	u64 now = ktime_get_ns();
	struct edu *edu = data;
	u32 status = readl(edu->regs + EDU_IRQ_STATUS);

	if (!status)			/* another's */
		return IRQ_NONE;
	/* All ones may be every interrupt at once, or a device that has left. */
	if (status == ~0U && readl(edu->regs + EDU_IDENTIFICATION) == ~0U)
		return IRQ_NONE;
	writel(status, edu->regs + EDU_IRQ_ACKNOWLEDGE);
	if (!edu->msi)			/* a level must have fallen before we leave */
		readl(edu->regs + EDU_IRQ_STATUS);

	spin_lock(&edu->irq_lock);
	edu->irq_at = now;
	edu->irq_count++;
	edu->seen |= status;
	if (edu->awaited && (edu->seen & edu->awaited) == edu->awaited) {
		edu->awaited = 0;
		complete(&edu->done);
	}
	spin_unlock(&edu->irq_lock);
	return IRQ_HANDLED;
}

/* To be called before the device is told to do what ends in these interrupts. */
void edu_expect(struct edu *edu, u32 interrupts)
{
	spin_lock_irq(&edu->irq_lock);
	edu->seen = 0;
	edu->awaited = interrupts;
	reinit_completion(&edu->done);
	spin_unlock_irq(&edu->irq_lock);
}

int edu_wait(struct edu *edu)
{
	if (wait_for_completion_timeout(&edu->done,
					msecs_to_jiffies(edu_timeout_ms)))
		return 0;
	spin_lock_irq(&edu->irq_lock);
	edu->awaited = 0;
	spin_unlock_irq(&edu->irq_lock);
	return -ETIMEDOUT;
}

int edu_lock(struct edu *edu)
{
	if (mutex_lock_interruptible(&edu->lock))
		return -ERESTARTSYS;
	if (edu->gone) {
		mutex_unlock(&edu->lock);
		return -ENODEV;
	}
	return 0;
}

/* Between mapped memory and the device's buffer; the range is checked. */
int edu_dma(struct edu *edu, dma_addr_t memory, u32 device_offset, u32 length,
	    bool to_memory)
{
	u64 buffer = EDU_BUFFER_ADDRESS + device_offset;
	u32 command = EDU_DMA_START | EDU_DMA_INTERRUPT;
	struct device *dev = &edu->pdev->dev;
	int failed;

	lockdep_assert_held(&edu->lock);
	if (edu->wedged)
		return -EIO;
	if (to_memory)
		command |= EDU_DMA_TO_MEMORY;
	edu_expect(edu, EDU_IRQ_DMA);
	writeq(to_memory ? buffer : memory, edu->regs + EDU_DMA_SOURCE);
	writeq(to_memory ? memory : buffer, edu->regs + EDU_DMA_DESTINATION);
	writeq(length, edu->regs + EDU_DMA_COUNT);
	writeq(command, edu->regs + EDU_DMA_COMMAND);
	failed = edu_wait(edu);
	if (!failed)
		return 0;
	command = readl(edu->regs + EDU_DMA_COMMAND);
	if (command == ~0U)		/* it has left: nothing reaches memory any more */
		return -ENODEV;
	if (!(command & EDU_DMA_START)) {
		dev_warn(dev, "the interrupt of a DMA of %u bytes got lost\n", length);
		return 0;
	}
	/* It may still reach the memory: only a reset ends that. */
	edu->wedged = true;
	dev_err(dev, "a DMA of %u bytes did not end\n", length);
	return failed;
}

int edu_stream(struct edu *edu, u32 device_offset, u32 length, bool to_memory)
{
	enum dma_data_direction direction =
		to_memory ? DMA_FROM_DEVICE : DMA_TO_DEVICE;
	struct device *dev = &edu->pdev->dev;
	dma_addr_t memory;
	int failed;

	if (edu->wedged)
		return -EIO;
	memory = dma_map_single(dev, edu->staging, length, direction);
	if (dma_mapping_error(dev, memory))
		return -ENOMEM;
	failed = edu_dma(edu, memory, device_offset, length, to_memory);
	if (!edu->wedged)
		dma_unmap_single(dev, memory, length, direction);
	return failed;
}
