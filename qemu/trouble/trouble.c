// SPDX-License-Identifier: GPL-2.0
/*
 * Does as it is loaded what drivers should not: what=warn, oops, protection,
 * atomic, hung, hang or panic. For the tests of those who notice.
 */
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/spinlock.h>

static char *what = "warn";
module_param(what, charp, 0444);

static DEFINE_SPINLOCK(lock);

/* Its address is nobody's: the upper half of canonical addresses begins later. */
#define WILD	((volatile int *)0x8000000000000000ul)

static int sleep_forever(void *data)
{
	set_current_state(TASK_UNINTERRUPTIBLE);
	schedule();
	return 0;
}

static int __init trouble_init(void)
{
	if (!strcmp(what, "warn")) {
		WARN(1, "trouble was asked for\n");
	} else if (!strcmp(what, "oops")) {
		*(volatile int *)8 = 1;
	} else if (!strcmp(what, "protection")) {
		*WILD = 1;
	} else if (!strcmp(what, "atomic")) {
		spin_lock(&lock);
		msleep(20);
		spin_unlock(&lock);
	} else if (!strcmp(what, "hung")) {
		struct task_struct *task = kthread_run(sleep_forever, NULL, "trouble");

		if (IS_ERR(task))
			return PTR_ERR(task);
	} else if (!strcmp(what, "hang")) {
		local_irq_disable();
		for (;;)
			cpu_relax();
	} else if (!strcmp(what, "panic")) {
		panic("trouble was asked for");
	} else {
		return -EINVAL;
	}
	return 0;
}

static void __exit trouble_exit(void)
{
}

module_init(trouble_init);
module_exit(trouble_exit);

MODULE_DESCRIPTION("Misbehaves on demand");
MODULE_LICENSE("GPL");
