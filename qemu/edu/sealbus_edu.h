/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * What /dev/eduN offers beside read and write.
 *
 * The file is the device's buffer: EDU_BUFFER_BYTES long, read and written by
 * DMA at the file's position. mmap gives EDU_SHARED_BYTES of coherent memory
 * that EDU_TRANSFER moves to and from the device's buffer.
 */
#ifndef SEALBUS_EDU_H
#define SEALBUS_EDU_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define EDU_BUFFER_BYTES	4096
#define EDU_SHARED_BYTES	16384

struct edu_transfer {
	__u32 shared_offset;	/* any byte of the coherent memory */
	__u32 device_offset;	/* any byte of the device's buffer */
	__u32 length;		/* 1 to EDU_BUFFER_BYTES */
	__u32 direction;	/* EDU_TO_DEVICE or EDU_FROM_DEVICE */
};

#define EDU_TO_DEVICE		0	/* the device reads memory */
#define EDU_FROM_DEVICE		1	/* the device writes memory */

#define EDU_TRANSFER		_IOW('E', 1, struct edu_transfer)

#endif
