// SPDX-License-Identifier: GPL-2.0
/*
 * Driver for QEMU's educational device, 1234:11e8 (docs/specs/edu in QEMU's
 * source), and for sealbus's own of the same specification.
 *
 * /dev/eduN is the device's 4 KiB buffer: write() carries bytes there by DMA,
 * read() carries them back. Attributes of the PCI device: identification,
 * liveness, factorial, raise, interrupts, rounds, mmio_read_ns, irq_latency_ns.
 */
#include <linux/bitfield.h>
#include <linux/completion.h>
#include <linux/dma-mapping.h>
#include <linux/fs.h>
#include <linux/idr.h>
#include <linux/interrupt.h>
#include <linux/iopoll.h>
#include <linux/kref.h>
#include <linux/ktime.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/sysfs.h>
#include <linux/uaccess.h>

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

#define EDU_TIMEOUT		(10 * HZ)
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

static DEFINE_IDA(edu_ids);

static void edu_release_memory(struct kref *refs)
{
	kfree(container_of(refs, struct edu, refs));
}

/* Interrupts */

static irqreturn_t edu_interrupt(int irq, void *data)
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
static void edu_expect(struct edu *edu, u32 interrupts)
{
	spin_lock_irq(&edu->irq_lock);
	edu->seen = 0;
	edu->awaited = interrupts;
	reinit_completion(&edu->done);
	spin_unlock_irq(&edu->irq_lock);
}

static int edu_wait(struct edu *edu)
{
	if (wait_for_completion_timeout(&edu->done, EDU_TIMEOUT))
		return 0;
	spin_lock_irq(&edu->irq_lock);
	edu->awaited = 0;
	spin_unlock_irq(&edu->irq_lock);
	return -ETIMEDOUT;
}

static int edu_lock(struct edu *edu)
{
	if (mutex_lock_interruptible(&edu->lock))
		return -ERESTARTSYS;
	if (edu->gone) {
		mutex_unlock(&edu->lock);
		return -ENODEV;
	}
	return 0;
}

/* DMA */

/* Between mapped memory and the device's buffer; the range is checked. */
static int edu_dma(struct edu *edu, dma_addr_t memory, u32 device_offset,
		   u32 length, bool to_memory)
{
	u64 buffer = EDU_BUFFER_ADDRESS + device_offset;
	u32 command = EDU_DMA_START | EDU_DMA_INTERRUPT;
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
	if (failed && (readl(edu->regs + EDU_DMA_COMMAND) & EDU_DMA_START)) {
		/* It may still reach the memory: only a reset ends that. */
		edu->wedged = true;
		dev_err(&edu->pdev->dev, "a DMA of %u bytes did not end\n", length);
	}
	return failed;
}

static int edu_stream(struct edu *edu, u32 device_offset, u32 length,
		      bool to_memory)
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

/* The character device */

static struct edu *edu_of(struct file *file)
{
	return container_of(file->private_data, struct edu, misc);
}

static int edu_open(struct inode *inode, struct file *file)
{
	struct edu *edu = edu_of(file);

	/* misc_open() holds off misc_deregister(): edu is alive. */
	if (test_and_set_bit(0, &edu->opened))
		return -EBUSY;
	kref_get(&edu->refs);
	mutex_lock(&edu->lock);
	edu->user = file;
	mutex_unlock(&edu->lock);
	return 0;
}

static int edu_release(struct inode *inode, struct file *file)
{
	struct edu *edu = edu_of(file);

	mutex_lock(&edu->lock);
	edu->user = NULL;
	mutex_unlock(&edu->lock);
	clear_bit(0, &edu->opened);
	kref_put(&edu->refs, edu_release_memory);
	return 0;
}

static loff_t edu_llseek(struct file *file, loff_t offset, int whence)
{
	return fixed_size_llseek(file, offset, whence, EDU_BUFFER_BYTES);
}

static ssize_t edu_read(struct file *file, char __user *to, size_t count,
			loff_t *position)
{
	struct edu *edu = edu_of(file);
	ssize_t result;

	if (*position >= EDU_BUFFER_BYTES || !count)
		return 0;
	count = min_t(size_t, count, EDU_BUFFER_BYTES - *position);
	result = edu_lock(edu);
	if (result)
		return result;
	result = edu_stream(edu, *position, count, true);
	if (!result && copy_to_user(to, edu->staging, count))
		result = -EFAULT;
	mutex_unlock(&edu->lock);
	if (result)
		return result;
	*position += count;
	return count;
}

static ssize_t edu_write(struct file *file, const char __user *from,
			 size_t count, loff_t *position)
{
	struct edu *edu = edu_of(file);
	ssize_t result;

	if (!count)
		return 0;
	if (*position >= EDU_BUFFER_BYTES)
		return -ENOSPC;
	count = min_t(size_t, count, EDU_BUFFER_BYTES - *position);
	result = edu_lock(edu);
	if (result)
		return result;
	/* A wedged device may still look at the staging page: leave it be. */
	if (edu->wedged)
		result = -EIO;
	else if (copy_from_user(edu->staging, from, count))
		result = -EFAULT;
	else
		result = edu_stream(edu, *position, count, false);
	mutex_unlock(&edu->lock);
	if (result)
		return result;
	*position += count;
	return count;
}

static long edu_ioctl(struct file *file, unsigned int request,
		      unsigned long argument)
{
	struct edu *edu = edu_of(file);
	struct edu_transfer transfer;
	long result;

	if (request != EDU_TRANSFER)
		return -ENOTTY;
	if (copy_from_user(&transfer, (void __user *)argument, sizeof(transfer)))
		return -EFAULT;
	if (!transfer.length || transfer.length > EDU_BUFFER_BYTES ||
	    transfer.device_offset > EDU_BUFFER_BYTES - transfer.length ||
	    transfer.shared_offset > EDU_SHARED_BYTES - transfer.length ||
	    transfer.direction > EDU_FROM_DEVICE)
		return -EINVAL;
	result = edu_lock(edu);
	if (result)
		return result;
	result = edu_dma(edu, edu->shared_dma + transfer.shared_offset,
			 transfer.device_offset, transfer.length,
			 transfer.direction == EDU_FROM_DEVICE);
	mutex_unlock(&edu->lock);
	return result;
}

static int edu_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct edu *edu = edu_of(file);
	int result = edu_lock(edu);

	if (result)
		return result;
	/* edu_remove() takes the mappings away before it frees the memory. */
	result = dma_mmap_coherent(&edu->pdev->dev, vma, edu->shared,
				   edu->shared_dma, EDU_SHARED_BYTES);
	mutex_unlock(&edu->lock);
	return result;
}

static const struct file_operations edu_fops = {
	.owner = THIS_MODULE,
	.open = edu_open,
	.release = edu_release,
	.llseek = edu_llseek,
	.read = edu_read,
	.write = edu_write,
	.unlocked_ioctl = edu_ioctl,
	.mmap = edu_mmap,
};

/* Attributes */

static ssize_t identification_show(struct device *dev,
				   struct device_attribute *attr, char *text)
{
	struct edu *edu = dev_get_drvdata(dev);

	return sysfs_emit(text, "0x%08x\n", readl(edu->regs + EDU_IDENTIFICATION));
}
static DEVICE_ATTR_RO(identification);

static ssize_t liveness_show(struct device *dev, struct device_attribute *attr,
			     char *text)
{
	struct edu *edu = dev_get_drvdata(dev);

	return sysfs_emit(text, "0x%08x\n", readl(edu->regs + EDU_LIVENESS));
}

static ssize_t liveness_store(struct device *dev, struct device_attribute *attr,
			      const char *text, size_t count)
{
	struct edu *edu = dev_get_drvdata(dev);
	u32 value;
	int failed = kstrtou32(text, 0, &value);

	if (failed)
		return failed;
	writel(value, edu->regs + EDU_LIVENESS);
	return count;
}
static DEVICE_ATTR_RW(liveness);

static ssize_t factorial_show(struct device *dev, struct device_attribute *attr,
			      char *text)
{
	struct edu *edu = dev_get_drvdata(dev);

	return sysfs_emit(text, "%u\n", readl(edu->regs + EDU_FACTORIAL));
}

static ssize_t factorial_store(struct device *dev, struct device_attribute *attr,
			       const char *text, size_t count)
{
	struct edu *edu = dev_get_drvdata(dev);
	u32 value, status;
	int failed = kstrtou32(text, 0, &value);

	if (failed)
		return failed;
	failed = edu_lock(edu);
	if (failed)
		return failed;
	edu_expect(edu, EDU_IRQ_FACTORIAL);
	writel(EDU_STATUS_RAISE, edu->regs + EDU_STATUS);
	writel(value, edu->regs + EDU_FACTORIAL);
	failed = edu_wait(edu);
	writel(0, edu->regs + EDU_STATUS);
	if (!failed)
		failed = readl_poll_timeout(edu->regs + EDU_STATUS, status,
					    !(status & EDU_STATUS_COMPUTING),
					    10, 1000000);
	mutex_unlock(&edu->lock);
	return failed ? failed : count;
}
static DEVICE_ATTR_RW(factorial);

static ssize_t raise_store(struct device *dev, struct device_attribute *attr,
			   const char *text, size_t count)
{
	struct edu *edu = dev_get_drvdata(dev);
	u32 value;
	int failed = kstrtou32(text, 0, &value);

	if (failed)
		return failed;
	if (!value)
		return -EINVAL;
	failed = edu_lock(edu);
	if (failed)
		return failed;
	edu_expect(edu, value);
	writel(value, edu->regs + EDU_IRQ_RAISE);
	failed = edu_wait(edu);
	mutex_unlock(&edu->lock);
	return failed ? failed : count;
}
static DEVICE_ATTR_WO(raise);

static ssize_t interrupts_show(struct device *dev, struct device_attribute *attr,
			       char *text)
{
	struct edu *edu = dev_get_drvdata(dev);
	u64 irqs;
	u32 seen;

	spin_lock_irq(&edu->irq_lock);
	irqs = edu->irq_count;
	seen = edu->seen;
	spin_unlock_irq(&edu->irq_lock);
	return sysfs_emit(text, "%s count %llu seen 0x%x pending 0x%x\n",
			  edu->msi ? "msi" : "intx", irqs, seen,
			  readl(edu->regs + EDU_IRQ_STATUS));
}
static DEVICE_ATTR_RO(interrupts);

static ssize_t rounds_show(struct device *dev, struct device_attribute *attr,
			   char *text)
{
	struct edu *edu = dev_get_drvdata(dev);

	return sysfs_emit(text, "%u\n", edu->rounds);
}

static ssize_t rounds_store(struct device *dev, struct device_attribute *attr,
			    const char *text, size_t count)
{
	struct edu *edu = dev_get_drvdata(dev);
	u32 value;
	int failed = kstrtou32(text, 0, &value);

	if (failed)
		return failed;
	if (!value || value > EDU_ROUNDS_MAX)
		return -ERANGE;
	failed = edu_lock(edu);
	if (failed)
		return failed;
	edu->rounds = value;
	mutex_unlock(&edu->lock);
	return count;
}
static DEVICE_ATTR_RW(rounds);

static int edu_compare(const void *left, const void *right)
{
	u64 a = *(const u64 *)left, b = *(const u64 *)right;

	return a < b ? -1 : a > b;
}

static ssize_t edu_emit_times(char *text, u64 *times, u32 rounds)
{
	sort(times, rounds, sizeof(*times), edu_compare, NULL);
	return sysfs_emit(text, "median %llu min %llu p90 %llu max %llu rounds %u\n",
			  times[rounds / 2], times[0],
			  times[(u64)rounds * 9 / 10], times[rounds - 1], rounds);
}

/* One register read, from its issue to its value. */
static ssize_t mmio_read_ns_show(struct device *dev,
				 struct device_attribute *attr, char *text)
{
	struct edu *edu = dev_get_drvdata(dev);
	ssize_t result = edu_lock(edu);
	u64 *times;
	u32 i;

	if (result)
		return result;
	times = kvmalloc_array(edu->rounds, sizeof(*times), GFP_KERNEL);
	result = times ? 0 : -ENOMEM;
	for (i = 0; !result && i < edu->rounds; i++) {
		u64 start = ktime_get_ns();

		readl(edu->regs + EDU_LIVENESS);
		times[i] = ktime_get_ns() - start;
		cond_resched();
		if (signal_pending(current))
			result = -EINTR;
	}
	if (!result)
		result = edu_emit_times(text, times, edu->rounds);
	kvfree(times);
	mutex_unlock(&edu->lock);
	return result;
}
static DEVICE_ATTR_RO(mmio_read_ns);

/* From the doorbell's write to the first line of the interrupt's handler. */
static ssize_t irq_latency_ns_show(struct device *dev,
				   struct device_attribute *attr, char *text)
{
	struct edu *edu = dev_get_drvdata(dev);
	ssize_t result = edu_lock(edu);
	u64 *times;
	u32 i;

	if (result)
		return result;
	times = kvmalloc_array(edu->rounds, sizeof(*times), GFP_KERNEL);
	result = times ? 0 : -ENOMEM;
	for (i = 0; !result && i < edu->rounds; i++) {
		u64 start;

		edu_expect(edu, EDU_IRQ_PROBE);
		start = ktime_get_ns();
		writel(EDU_IRQ_PROBE, edu->regs + EDU_IRQ_RAISE);
		result = edu_wait(edu);
		times[i] = edu->irq_at - start;
		if (!result && signal_pending(current))
			result = -EINTR;
	}
	if (!result)
		result = edu_emit_times(text, times, edu->rounds);
	kvfree(times);
	mutex_unlock(&edu->lock);
	return result;
}
static DEVICE_ATTR_RO(irq_latency_ns);

static struct attribute *edu_attrs[] = {
	&dev_attr_identification.attr,
	&dev_attr_liveness.attr,
	&dev_attr_factorial.attr,
	&dev_attr_raise.attr,
	&dev_attr_interrupts.attr,
	&dev_attr_rounds.attr,
	&dev_attr_mmio_read_ns.attr,
	&dev_attr_irq_latency_ns.attr,
	NULL
};
ATTRIBUTE_GROUPS(edu);

/* Binding */

static void edu_quiesce(struct edu *edu)
{
	writel(0, edu->regs + EDU_STATUS);
	writel(readl(edu->regs + EDU_IRQ_STATUS), edu->regs + EDU_IRQ_ACKNOWLEDGE);
}

static int edu_allocate(struct edu *edu)
{
	struct device *dev = &edu->pdev->dev;

	/* The streaming page lies where 28 bits reach, else it would be bounced. */
	edu->staging = (void *)__get_free_page(GFP_KERNEL | GFP_DMA);
	if (!edu->staging)
		return -ENOMEM;
	edu->shared = dma_alloc_coherent(dev, EDU_SHARED_BYTES,
					 &edu->shared_dma, GFP_KERNEL);
	if (edu->shared)
		return 0;
	free_page((unsigned long)edu->staging);
	return -ENOMEM;
}

static void edu_free(struct edu *edu)
{
	if (edu->wedged)	/* leaked: the device may still write there */
		return;
	dma_free_coherent(&edu->pdev->dev, EDU_SHARED_BYTES, edu->shared,
			  edu->shared_dma);
	free_page((unsigned long)edu->staging);
}

static int edu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct device *dev = &pdev->dev;
	struct edu *edu;
	u32 found;
	int failed;

	edu = kzalloc(sizeof(*edu), GFP_KERNEL);
	if (!edu)
		return -ENOMEM;
	kref_init(&edu->refs);
	mutex_init(&edu->lock);
	spin_lock_init(&edu->irq_lock);
	init_completion(&edu->done);
	edu->pdev = pdev;
	edu->rounds = EDU_ROUNDS_DEFAULT;

	failed = pci_enable_device(pdev);
	if (failed)
		goto put_edu;
	failed = dma_set_mask_and_coherent(dev, DMA_BIT_MASK(EDU_DMA_BITS));
	if (failed)
		goto disable_device;
	failed = pci_request_region(pdev, EDU_BAR, KBUILD_MODNAME);
	if (failed)
		goto disable_device;
	edu->regs = pci_iomap(pdev, EDU_BAR, 0);
	if (!edu->regs) {
		failed = -ENOMEM;
		goto release_region;
	}
	found = readl(edu->regs + EDU_IDENTIFICATION);
	if (FIELD_GET(EDU_ID_MAGIC, found) != EDU_ID_MAGIC_VALUE) {
		failed = dev_err_probe(dev, -ENODEV,
				       "identification 0x%08x is no edu's\n", found);
		goto unmap;
	}
	pci_set_master(pdev);
	edu_quiesce(edu);
	failed = edu_allocate(edu);
	if (failed)
		goto clear_master;

	failed = pci_alloc_irq_vectors(pdev, 1, 1, PCI_IRQ_MSI | PCI_IRQ_INTX);
	if (failed < 0)
		goto free_memory;
	edu->msi = pdev->msi_enabled;
	failed = request_irq(pci_irq_vector(pdev, 0), edu_interrupt,
			     edu->msi ? 0 : IRQF_SHARED, KBUILD_MODNAME, edu);
	if (failed)
		goto free_vectors;

	edu->id = ida_alloc(&edu_ids, GFP_KERNEL);
	if (edu->id < 0) {
		failed = edu->id;
		goto free_interrupt;
	}
	snprintf(edu->name, sizeof(edu->name), "edu%d", edu->id);
	edu->misc = (struct miscdevice){
		.minor = MISC_DYNAMIC_MINOR, .name = edu->name,
		.fops = &edu_fops, .parent = dev, .mode = 0600,
	};
	pci_set_drvdata(pdev, edu);
	failed = misc_register(&edu->misc);
	if (failed)
		goto free_id;
	return 0;

free_id:
	ida_free(&edu_ids, edu->id);
free_interrupt:
	free_irq(pci_irq_vector(pdev, 0), edu);
free_vectors:
	pci_free_irq_vectors(pdev);
free_memory:
	edu_free(edu);
clear_master:
	pci_clear_master(pdev);
unmap:
	pci_iounmap(pdev, edu->regs);
release_region:
	pci_release_region(pdev, EDU_BAR);
disable_device:
	pci_disable_device(pdev);
put_edu:
	kref_put(&edu->refs, edu_release_memory);
	return failed;
}

static void edu_remove(struct pci_dev *pdev)
{
	struct edu *edu = pci_get_drvdata(pdev);

	misc_deregister(&edu->misc);
	/* A transfer under way ends first; those that come later get ENODEV. */
	mutex_lock(&edu->lock);
	edu->gone = true;
	if (edu->user)
		unmap_mapping_range(edu->user->f_mapping, 0, 0, 1);
	mutex_unlock(&edu->lock);

	edu_quiesce(edu);
	free_irq(pci_irq_vector(pdev, 0), edu);
	pci_free_irq_vectors(pdev);
	pci_clear_master(pdev);
	edu_free(edu);
	pci_iounmap(pdev, edu->regs);
	pci_release_region(pdev, EDU_BAR);
	pci_disable_device(pdev);
	ida_free(&edu_ids, edu->id);
	kref_put(&edu->refs, edu_release_memory);
}

/* The PCI core saves and restores configuration space around a reset. */
static void edu_reset_prepare(struct pci_dev *pdev)
{
	struct edu *edu = pci_get_drvdata(pdev);

	mutex_lock(&edu->lock);
}

static void edu_reset_done(struct pci_dev *pdev)
{
	struct edu *edu = pci_get_drvdata(pdev);

	edu->wedged = false;
	edu_quiesce(edu);
	mutex_unlock(&edu->lock);
}

static const struct pci_error_handlers edu_error_handlers = {
	.reset_prepare = edu_reset_prepare,
	.reset_done = edu_reset_done,
};

static const struct pci_device_id edu_ids_table[] = {
	{ PCI_DEVICE(EDU_VENDOR, EDU_DEVICE) },
	{ }
};
MODULE_DEVICE_TABLE(pci, edu_ids_table);

static struct pci_driver edu_driver = {
	.name = KBUILD_MODNAME,
	.id_table = edu_ids_table,
	.probe = edu_probe,
	.remove = edu_remove,
	.err_handler = &edu_error_handlers,
	.dev_groups = edu_groups,
};
module_pci_driver(edu_driver);

MODULE_DESCRIPTION("QEMU's educational PCI device");
MODULE_LICENSE("GPL");
