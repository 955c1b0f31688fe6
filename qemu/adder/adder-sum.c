// SPDX-License-Identifier: GPL-2.0
/*
 * adder-sum FILE: prints the sum of the file's bytes, of which at most 64 KiB
 * are taken, as the adder's driver tells it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define DEVICE		"/dev/adder"
#define BYTES_MAX	65536

static int fail(const char *what)
{
	fprintf(stderr, "adder-sum: %s: %s\n", what, strerror(errno));
	return 1;
}

int main(int count, char **arguments)
{
	static char bytes[BYTES_MAX];
	ssize_t length, got;
	int file, adder;
	char sum[16];

	if (count != 2) {
		fprintf(stderr, "usage: adder-sum FILE\n");
		return 2;
	}
	file = open(arguments[1], O_RDONLY);
	if (file < 0)
		return fail(arguments[1]);
	length = read(file, bytes, sizeof(bytes));
	if (length < 0)
		return fail(arguments[1]);
	adder = open(DEVICE, O_RDWR);
	if (adder < 0)
		return fail(DEVICE);
	if (write(adder, bytes, length) != length)
		return fail(DEVICE);
	got = read(adder, sum, sizeof(sum));
	if (got < 0)
		return fail(DEVICE);
	return fwrite(sum, 1, got, stdout) == (size_t)got ? 0 : 1;
}
