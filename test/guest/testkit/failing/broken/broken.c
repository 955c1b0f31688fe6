// SPDX-License-Identifier: GPL-2.0
#include <linux/module.h>

static int __init broken_init(void)
{
	return no_such_function(THIS_MODULE);
}
module_init(broken_init);

MODULE_LICENSE("GPL");
