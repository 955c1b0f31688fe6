// SPDX-License-Identifier: GPL-2.0
/*
 * pcimem BDF BAR OFFSET WIDTH [VALUE]: reads or writes a register of a PCI
 * function from user space, through resourceN in sysfs. WIDTH is 1, 2, 4 or 8
 * bytes. Several accesses may follow one another: OFFSET WIDTH VALUE, parted
 * by "," arguments, in one process, with no other access between them.
 *
 *	pcimem 0000:00:04.0 0 0x80 8 0xfee00000 , 0x98 4 1
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static uint64_t number(const char *text, const char *what)
{
	unsigned long long value;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 0);
	if (errno || end == text || *end)
		errx(2, "expected %s, got '%s'", what, text);
	return value;
}

static uint64_t load(volatile void *at, unsigned int width)
{
	switch (width) {
	case 1:
		return *(volatile uint8_t *)at;
	case 2:
		return *(volatile uint16_t *)at;
	case 4:
		return *(volatile uint32_t *)at;
	default:
		return *(volatile uint64_t *)at;
	}
}

static void store(volatile void *at, unsigned int width, uint64_t value)
{
	switch (width) {
	case 1:
		*(volatile uint8_t *)at = value;
		break;
	case 2:
		*(volatile uint16_t *)at = value;
		break;
	case 4:
		*(volatile uint32_t *)at = value;
		break;
	default:
		*(volatile uint64_t *)at = value;
	}
}

int main(int count, char **arguments)
{
	char path[128];
	struct stat status;
	char *base;
	int fd, i;

	if (count < 5)
		errx(2, "usage: pcimem BDF BAR OFFSET WIDTH [VALUE] [, OFFSET WIDTH [VALUE]]...");
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource%u",
		 arguments[1], (unsigned int)number(arguments[2], "a BAR"));
	fd = open(path, O_RDWR | O_SYNC);
	if (fd < 0 || fstat(fd, &status))
		err(1, "cannot open %s", path);
	base = mmap(NULL, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (base == MAP_FAILED)
		err(1, "cannot map %s", path);

	for (i = 3; i < count; i++) {
		uint64_t offset, width, value;

		if (i + 1 >= count)
			errx(2, "expected a width after offset %s", arguments[i]);
		offset = number(arguments[i], "an offset");
		width = number(arguments[i + 1], "a width");
		i += 2;
		if (width != 1 && width != 2 && width != 4 && width != 8)
			errx(2, "expected a width of 1, 2, 4 or 8, got %llu",
			     (unsigned long long)width);
		if (offset + width > (uint64_t)status.st_size || offset + width < offset)
			errx(2, "expected an offset within 0x%llx, got 0x%llx",
			     (unsigned long long)status.st_size,
			     (unsigned long long)offset);
		if (i < count && strcmp(arguments[i], ",")) {
			value = number(arguments[i], "a value");
			store(base + offset, width, value);
			i++;
		} else {
			printf("0x%0*llx\n", (int)width * 2,
			       (unsigned long long)load(base + offset, width));
		}
		if (i < count && strcmp(arguments[i], ","))
			errx(2, "expected ',' between accesses, got '%s'", arguments[i]);
	}
	return 0;
}
