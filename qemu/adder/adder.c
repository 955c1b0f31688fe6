// SPDX-License-Identifier: GPL-2.0
/*
 * Driver for the adder, 1b36:5eb1 (examples/adder/adder.ts): /dev/adder takes
 * bytes by write(), of which the device reads a copy by DMA; read() then gives
 * their sum as a line of text.
 */
#include <linux/bits.h>
#include <linux/completion.h>
#include <linux/dma-mapping.h>
#include <linux/fs.h>
#include <linux/interrupt.h>
#include <linux/io-64-nonatomic-lo-hi.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#define ADDER_VENDOR		0x1b36
#define ADDER_DEVICE		0x5eb1
#define ADDER_BAR		0

#define ADDER_CONTROL		0x00
#define   ADDER_GO		BIT(0)
#define   ADDER_DONE		BIT(1)
#define   ADDER_ERROR		BIT(2)
#define ADDER_SOURCE		0x08
#define ADDER_LENGTH		0x10
#define ADDER_SUM		0x14

/* What a function reads as that has left its slot. */
#define ADDER_GONE		(~0u)

#define ADDER_BYTES_MAX		65536
#define ADDER_TIMEOUT		(2 * HZ)

struct adder {
	struct miscdevice misc;
	struct pci_dev *pdev;
	void __iomem *regs;
	struct mutex lock;	/* one sum at a time */
	struct completion done;
	u32 sum;
};

static struct adder *adder_of(struct file *file)
{
	return container_of(file->private_data, struct adder, misc);
}

static irqreturn_t adder_interrupt(int irq, void *data)
{
	struct adder *adder = data;

	complete(&adder->done);
	return IRQ_HANDLED;
}

/* Called with the lock held. Until it returns the memory is the device's. */
static int adder_run(struct adder *adder, dma_addr_t source, u32 length)
{
	u32 control;

	reinit_completion(&adder->done);
	writeq(source, adder->regs + ADDER_SOURCE);
	writel(length, adder->regs + ADDER_LENGTH);
	writel(ADDER_GO, adder->regs + ADDER_CONTROL);
	if (!wait_for_completion_timeout(&adder->done, ADDER_TIMEOUT))
		dev_warn(&adder->pdev->dev, "no interrupt within 2 s\n");
	control = readl(adder->regs + ADDER_CONTROL);
	if (control == ADDER_GONE)
		return -ENODEV;
	if (control & ADDER_ERROR)
		return -EIO;
	if (!(control & ADDER_DONE))
		return -ETIMEDOUT;
	adder->sum = readl(adder->regs + ADDER_SUM);
	return 0;
}

static ssize_t adder_write(struct file *file, const char __user *from,
			   size_t length, loff_t *position)
{
	struct adder *adder = adder_of(file);
	struct device *dev = &adder->pdev->dev;
	dma_addr_t source;
	void *bytes;
	int failed;

	if (!length || length > ADDER_BYTES_MAX)
		return -EINVAL;
	bytes = memdup_user(from, length);
	if (IS_ERR(bytes))
		return PTR_ERR(bytes);
	source = dma_map_single(dev, bytes, length, DMA_TO_DEVICE);
	if (dma_mapping_error(dev, source)) {
		failed = -ENOMEM;
		goto free_bytes;
	}
	mutex_lock(&adder->lock);
	failed = adder_run(adder, source, length);
	mutex_unlock(&adder->lock);
	dma_unmap_single(dev, source, length, DMA_TO_DEVICE);
free_bytes:
	kfree(bytes);
	return failed ? failed : length;
}

static ssize_t adder_read(struct file *file, char __user *to, size_t length,
			  loff_t *position)
{
	char line[16];
	int bytes = snprintf(line, sizeof(line), "%u\n", adder_of(file)->sum);

	return simple_read_from_buffer(to, length, position, line, bytes);
}

static const struct file_operations adder_fops = {
	.owner = THIS_MODULE,
	.read = adder_read,
	.write = adder_write,
};

static int adder_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct device *dev = &pdev->dev;
	struct adder *adder;
	int failed;

	adder = devm_kzalloc(dev, sizeof(*adder), GFP_KERNEL);
	if (!adder)
		return -ENOMEM;
	adder->pdev = pdev;
	mutex_init(&adder->lock);
	init_completion(&adder->done);

	failed = pcim_enable_device(pdev);
	if (failed)
		return failed;
	failed = dma_set_mask_and_coherent(dev, DMA_BIT_MASK(64));
	if (failed)
		return failed;
	adder->regs = pcim_iomap_region(pdev, ADDER_BAR, KBUILD_MODNAME);
	if (IS_ERR(adder->regs))
		return PTR_ERR(adder->regs);
	pci_set_master(pdev);

	failed = pci_alloc_irq_vectors(pdev, 1, 1, PCI_IRQ_MSIX);
	if (failed < 0)
		return failed;
	failed = request_irq(pci_irq_vector(pdev, 0), adder_interrupt, 0,
			     KBUILD_MODNAME, adder);
	if (failed)
		goto free_vectors;
	adder->misc = (struct miscdevice){
		.minor = MISC_DYNAMIC_MINOR, .name = "adder",
		.fops = &adder_fops, .parent = dev, .mode = 0600,
	};
	pci_set_drvdata(pdev, adder);
	failed = misc_register(&adder->misc);
	if (failed)
		goto free_interrupt;
	return 0;

free_interrupt:
	free_irq(pci_irq_vector(pdev, 0), adder);
free_vectors:
	pci_free_irq_vectors(pdev);
	return failed;
}

static void adder_remove(struct pci_dev *pdev)
{
	struct adder *adder = pci_get_drvdata(pdev);

	misc_deregister(&adder->misc);
	free_irq(pci_irq_vector(pdev, 0), adder);
	pci_free_irq_vectors(pdev);
	pci_clear_master(pdev);
}

static const struct pci_device_id adder_ids[] = {
	{ PCI_DEVICE(ADDER_VENDOR, ADDER_DEVICE) },
	{ }
};
MODULE_DEVICE_TABLE(pci, adder_ids);

static struct pci_driver adder_driver = {
	.name = KBUILD_MODNAME,
	.id_table = adder_ids,
	.probe = adder_probe,
	.remove = adder_remove,
};
module_pci_driver(adder_driver);

MODULE_DESCRIPTION("Adds the bytes of a buffer by DMA");
MODULE_LICENSE("GPL");
