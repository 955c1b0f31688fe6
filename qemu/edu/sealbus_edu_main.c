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
#include <linux/dma-mapping.h>
#include <linux/idr.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "sealbus_edu_device.h"

unsigned int edu_timeout_ms = 10000;
module_param_named(timeout_ms, edu_timeout_ms, uint, 0644);
MODULE_PARM_DESC(timeout_ms, "how long what ends in an interrupt may take");

static DEFINE_IDA(edu_ids);

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
