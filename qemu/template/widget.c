// SPDX-License-Identifier: GPL-2.0
/*
 * Driver for the widget of src/widget.ts, where its registers and jobs are
 * described. What is written to the attribute "checksum" of the PCI device is
 * summed by the widget, which reads it by DMA; reading gives the sum:
 *
 *	cd /sys/bus/pci/drivers/widget/0000:00:04.0
 *	echo -n hello > checksum && cat checksum
 */
#include <linux/bits.h>
#include <linux/completion.h>
#include <linux/dma-mapping.h>
#include <linux/interrupt.h>
#include <linux/io-64-nonatomic-lo-hi.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/sysfs.h>

#define WIDGET_VENDOR		0x1b36
#define WIDGET_DEVICE		0x5eb2
#define WIDGET_BAR		0

#define WIDGET_IDENTITY		0x00
#define   WIDGET_IDENTITY_VALUE	0x5ea1c001
#define WIDGET_CONTROL		0x04
#define   WIDGET_ENABLE		BIT(0)
#define WIDGET_RING		0x08
#define WIDGET_DOORBELL		0x10
#define WIDGET_STATUS		0x18

#define WIDGET_TO_DO		0
#define WIDGET_DONE		1
#define WIDGET_FAILED		2

#define WIDGET_RING_JOBS	16
#define WIDGET_TIMEOUT_MS	1000

/* In memory that device and driver share. */
struct widget_job {
	__le64 address;
	__le32 length;
	__le32 state;
	__le32 sum;
	__le32 reserved[3];
};

struct widget {
	struct pci_dev *pdev;
	void __iomem *regs;
	struct widget_job *ring;
	dma_addr_t ring_dma;
	struct completion done;	/* an interrupt came */

	struct mutex lock;	/* one job at a time; guards what follows */
	u32 jobs;		/* since it was enabled */
	bool has_sum;
	u32 sum;
};

static irqreturn_t widget_interrupt(int irq, void *data)
{
	struct widget *widget = data;

	complete(&widget->done);
	return IRQ_HANDLED;
}

/* From here on the device touches no memory. */
static void widget_stop(struct widget *widget)
{
	writel(0, widget->regs + WIDGET_CONTROL);
	readl(widget->regs + WIDGET_CONTROL);	/* the write has arrived */
}

static void widget_start(struct widget *widget)
{
	memset(widget->ring, 0, WIDGET_RING_JOBS * sizeof(*widget->ring));
	widget->jobs = 0;
	writeq(widget->ring_dma, widget->regs + WIDGET_RING);
	writel(WIDGET_ENABLE, widget->regs + WIDGET_CONTROL);
}

static u32 widget_state(const struct widget_job *job)
{
	u32 state = le32_to_cpu(READ_ONCE(job->state));

	dma_rmb();		/* the sum is read after the state */
	return state;
}

/* Has the device do a job, to which the mapped buffer belongs until it returns. */
static int widget_do(struct widget *widget, dma_addr_t buffer, u32 length)
{
	struct widget_job *job = &widget->ring[widget->jobs % WIDGET_RING_JOBS];
	unsigned long left = msecs_to_jiffies(WIDGET_TIMEOUT_MS);
	struct device *dev = &widget->pdev->dev;
	u32 state;

	lockdep_assert_held(&widget->lock);
	job->address = cpu_to_le64(buffer);
	job->length = cpu_to_le32(length);
	job->state = cpu_to_le32(WIDGET_TO_DO);
	reinit_completion(&widget->done);
	/* writel() orders: the job is in memory before the doorbell rings. */
	writel(++widget->jobs, widget->regs + WIDGET_DOORBELL);
	/* An interrupt may come late, and be of the job before. */
	while (widget_state(job) == WIDGET_TO_DO && left)
		left = wait_for_completion_timeout(&widget->done, left);

	state = widget_state(job);
	if (state == WIDGET_DONE) {
		if (!left)
			dev_info(dev, "an interrupt got lost\n");
		widget->sum = le32_to_cpu(job->sum);
		widget->has_sum = true;
		return 0;
	}
	if (state == WIDGET_FAILED)
		return -EIO;
	if (readl(widget->regs + WIDGET_IDENTITY) == ~0U)
		return -ENODEV;	/* it has left, and reaches no memory any more */
	dev_err(dev, "a job did not end, status 0x%x; starting anew\n",
		readl(widget->regs + WIDGET_STATUS));
	widget_stop(widget);
	widget_start(widget);
	return -ETIMEDOUT;
}

static ssize_t checksum_store(struct device *dev, struct device_attribute *attr,
			      const char *text, size_t length)
{
	struct widget *widget = dev_get_drvdata(dev);
	dma_addr_t buffer;
	void *bytes;
	int failed;

	if (!length)
		return -EINVAL;
	bytes = kmemdup(text, length, GFP_KERNEL);
	if (!bytes)
		return -ENOMEM;
	buffer = dma_map_single(dev, bytes, length, DMA_TO_DEVICE);
	if (dma_mapping_error(dev, buffer)) {
		failed = -ENOMEM;
		goto free_bytes;
	}
	mutex_lock(&widget->lock);
	failed = widget_do(widget, buffer, length);
	mutex_unlock(&widget->lock);
	dma_unmap_single(dev, buffer, length, DMA_TO_DEVICE);
free_bytes:
	kfree(bytes);
	return failed ? failed : length;
}

static ssize_t checksum_show(struct device *dev, struct device_attribute *attr,
			     char *text)
{
	struct widget *widget = dev_get_drvdata(dev);
	ssize_t length = -ENODATA;

	mutex_lock(&widget->lock);
	if (widget->has_sum)
		length = sysfs_emit(text, "%08x\n", widget->sum);
	mutex_unlock(&widget->lock);
	return length;
}
static DEVICE_ATTR_RW(checksum);

static struct attribute *widget_attrs[] = {
	&dev_attr_checksum.attr,
	NULL
};
ATTRIBUTE_GROUPS(widget);

static void widget_free_vectors(void *pdev)
{
	pci_free_irq_vectors(pdev);
}

static int widget_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct device *dev = &pdev->dev;
	struct widget *widget;
	u32 identity;
	int failed;

	widget = devm_kzalloc(dev, sizeof(*widget), GFP_KERNEL);
	if (!widget)
		return -ENOMEM;
	widget->pdev = pdev;
	mutex_init(&widget->lock);
	init_completion(&widget->done);

	failed = pcim_enable_device(pdev);
	if (failed)
		return failed;
	failed = dma_set_mask_and_coherent(dev, DMA_BIT_MASK(64));
	if (failed)
		return failed;
	widget->regs = pcim_iomap_region(pdev, WIDGET_BAR, KBUILD_MODNAME);
	if (IS_ERR(widget->regs))
		return PTR_ERR(widget->regs);
	/* All ones, for one: a device that does not answer. */
	identity = readl(widget->regs + WIDGET_IDENTITY);
	if (identity != WIDGET_IDENTITY_VALUE)
		return dev_err_probe(dev, -ENODEV, "identity 0x%08x is no widget's\n",
				     identity);
	widget->ring = dmam_alloc_coherent(dev, WIDGET_RING_JOBS * sizeof(*widget->ring),
					   &widget->ring_dma, GFP_KERNEL);
	if (!widget->ring)
		return -ENOMEM;

	failed = pci_alloc_irq_vectors(pdev, 1, 1, PCI_IRQ_MSIX);
	if (failed < 0)
		return failed;
	failed = devm_add_action_or_reset(dev, widget_free_vectors, pdev);
	if (failed)
		return failed;
	failed = devm_request_irq(dev, pci_irq_vector(pdev, 0), widget_interrupt, 0,
				  KBUILD_MODNAME, widget);
	if (failed)
		return failed;
	pci_set_drvdata(pdev, widget);
	pci_set_master(pdev);
	widget_stop(widget);
	widget_start(widget);
	return 0;
}

/* Attributes are gone, and nobody is in them; what is managed goes afterwards. */
static void widget_remove(struct pci_dev *pdev)
{
	widget_stop(pci_get_drvdata(pdev));
	pci_clear_master(pdev);
}

/* The PCI core saves and restores configuration space around a reset. */
static void widget_reset_prepare(struct pci_dev *pdev)
{
	struct widget *widget = pci_get_drvdata(pdev);

	mutex_lock(&widget->lock);
	widget_stop(widget);
}

static void widget_reset_done(struct pci_dev *pdev)
{
	struct widget *widget = pci_get_drvdata(pdev);

	widget_start(widget);
	mutex_unlock(&widget->lock);
}

static const struct pci_error_handlers widget_error_handlers = {
	.reset_prepare = widget_reset_prepare,
	.reset_done = widget_reset_done,
};

static const struct pci_device_id widget_ids[] = {
	{ PCI_DEVICE(WIDGET_VENDOR, WIDGET_DEVICE) },
	{ }
};
MODULE_DEVICE_TABLE(pci, widget_ids);

static struct pci_driver widget_driver = {
	.name = KBUILD_MODNAME,
	.id_table = widget_ids,
	.probe = widget_probe,
	.remove = widget_remove,
	.dev_groups = widget_groups,
	.err_handler = &widget_error_handlers,
};
module_pci_driver(widget_driver);

MODULE_DESCRIPTION("CRC-32 of buffers by a widget");
MODULE_LICENSE("GPL");
