// SPDX-License-Identifier: GPL-2.0
/*
 * edu-copy DEVICE INPUT OUTPUT: carries a file through the device's buffer, in
 * steps of at most 4 KiB: the device reads each by DMA, then writes it back by
 * DMA. Prints how many bytes went each way.
 */
#include <err.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "sealbus_edu.h"

static size_t read_step(int input, char *step, const char *name)
{
	size_t filled = 0;

	while (filled < EDU_BUFFER_BYTES) {
		ssize_t got = read(input, step + filled, EDU_BUFFER_BYTES - filled);

		if (got < 0)
			err(1, "cannot read %s", name);
		if (!got)
			break;
		filled += got;
	}
	return filled;
}

static void write_step(int output, const char *step, size_t length, const char *name)
{
	while (length) {
		ssize_t wrote = write(output, step, length);

		if (wrote < 0)
			err(1, "cannot write %s", name);
		step += wrote;
		length -= wrote;
	}
}

int main(int count, char **arguments)
{
	static char step[EDU_BUFFER_BYTES];
	unsigned long long to_device = 0, from_device = 0, steps = 0;
	int device, input, output;
	size_t length;

	if (count != 4)
		errx(2, "usage: edu-copy DEVICE INPUT OUTPUT");
	device = open(arguments[1], O_RDWR);
	if (device < 0)
		err(1, "cannot open %s", arguments[1]);
	input = open(arguments[2], O_RDONLY);
	if (input < 0)
		err(1, "cannot open %s", arguments[2]);
	output = open(arguments[3], O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (output < 0)
		err(1, "cannot open %s", arguments[3]);

	while ((length = read_step(input, step, arguments[2]))) {
		if (pwrite(device, step, length, 0) != (ssize_t)length)
			err(1, "DMA of %zu bytes to the device failed", length);
		to_device += length;
		/* What comes back must be the device's, not what is here. */
		memset(step, 0, sizeof(step));
		if (pread(device, step, length, 0) != (ssize_t)length)
			err(1, "DMA of %zu bytes from the device failed", length);
		from_device += length;
		write_step(output, step, length, arguments[3]);
		steps++;
	}
	if (close(output))
		err(1, "cannot write %s", arguments[3]);
	printf("to-device %llu from-device %llu steps %llu\n", to_device,
	       from_device, steps);
	return 0;
}
