// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/eduN: read, write and EDU_TRANSFER by DMA, mmap of coherent memory.
 */
#include <linux/dma-mapping.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "sealbus_edu_device.h"

void edu_release_memory(struct kref *refs)
{
	kfree(container_of(refs, struct edu, refs));
}

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

const struct file_operations edu_fops = {
	.owner = THIS_MODULE,
	.open = edu_open,
	.release = edu_release,
	.llseek = edu_llseek,
	.read = edu_read,
	.write = edu_write,
	.unlocked_ioctl = edu_ioctl,
	.mmap = edu_mmap,
};
