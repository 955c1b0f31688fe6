// SPDX-License-Identifier: GPL-2.0
/*
 * Attributes of the PCI device: its simple registers, and two latencies.
 */
#include <linux/device.h>
#include <linux/iopoll.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/sort.h>
#include <linux/sysfs.h>

#include "sealbus_edu_device.h"

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
	u64 sum = 0;
	u32 i;

	for (i = 0; i < rounds; i++)
		sum += times[i];
	sort(times, rounds, sizeof(*times), edu_compare, NULL);
	return sysfs_emit(text, "median %llu min %llu p90 %llu mean %llu max %llu rounds %u\n",
			  times[rounds / 2], times[0],
			  times[(u64)rounds * 9 / 10], div_u64(sum, rounds),
			  times[rounds - 1], rounds);
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
static const struct attribute_group edu_group = {
	.attrs = edu_attrs,
};

const struct attribute_group *edu_groups[] = {
	&edu_group,
	NULL
};
