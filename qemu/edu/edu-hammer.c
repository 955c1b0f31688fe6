// SPDX-License-Identifier: GPL-2.0
/*
 * edu-hammer DEVICE SECONDS SEED: looks for lost writes between the CPU and
 * the device's DMA in the same pages.
 *
 * The driver's coherent memory is cut at unaligned places into three parts:
 *
 *	[ CPU's | device's | CPU's ]
 *
 * One thread fills both CPU's parts, again and again, and checks that they
 * hold what it last wrote. Meanwhile the other thread moves patterns through
 * the device: from its part to the device's buffer, and back to another
 * place of its part, unaligned and across pages, and checks what came and
 * that its neighbourhood did not change. The cuts move each round.
 * Exits with 1 where anything was lost.
 */
#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "sealbus_edu.h"

#define REPORTS_MAX 10

static unsigned char *shared;
static int device;
/* The device's part, [start, end), and the round of the hammer on the rest. */
static uint32_t part_start, part_end;
static atomic_int running;
static unsigned long long cpu_bytes, cpu_rounds, transfers, dma_bytes;
static atomic_ullong lost;

static uint64_t next_random(uint64_t *state)
{
	/* splitmix64 */
	uint64_t z = (*state += 0x9e3779b97f4a7c15ULL);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

static unsigned char pattern(uint64_t key, uint32_t at)
{
	uint64_t z = (key + at) * 0x9e3779b97f4a7c15ULL;

	return z >> 56;
}

static void report(const char *who, uint32_t at, unsigned int want, unsigned int got)
{
	if (atomic_fetch_add(&lost, 1) < REPORTS_MAX)
		printf("lost: %s at byte %u: wanted 0x%02x, got 0x%02x\n", who, at,
		       want, got);
}

static void fill(uint64_t key, uint32_t from, uint32_t to)
{
	uint32_t i;

	for (i = from; i < to; i++)
		((volatile unsigned char *)shared)[i] = pattern(key, i);
}

static void verify(const char *who, uint64_t key, uint32_t from, uint32_t to)
{
	uint32_t i;

	for (i = from; i < to; i++) {
		unsigned char want = pattern(key, i);
		unsigned char got = ((volatile unsigned char *)shared)[i];

		if (got != want)
			report(who, i, want, got);
	}
}

static void *hammer(void *seed)
{
	uint64_t state = *(uint64_t *)seed ^ 0xc0ffee;

	while (atomic_load(&running)) {
		uint64_t key = next_random(&state);

		fill(key, 0, part_start);
		fill(key, part_end, EDU_SHARED_BYTES);
		verify("CPU's store", key, 0, part_start);
		verify("CPU's store", key, part_end, EDU_SHARED_BYTES);
		cpu_rounds++;
		cpu_bytes += EDU_SHARED_BYTES - (part_end - part_start);
	}
	return NULL;
}

static void transfer(uint32_t at, uint32_t device_at, uint32_t length, uint32_t direction)
{
	struct edu_transfer request = {
		.shared_offset = at, .device_offset = device_at,
		.length = length, .direction = direction,
	};

	if (ioctl(device, EDU_TRANSFER, &request))
		err(2, "DMA of %u bytes at %u failed", length, at);
	transfers++;
	dma_bytes += length;
}

/* A pattern out of one place of the device's part, and back into another. */
static void round_trip(uint64_t *state)
{
	uint32_t part = part_end - part_start;
	uint32_t half = part / 2 < EDU_BUFFER_BYTES ? part / 2 : EDU_BUFFER_BYTES;
	uint32_t length = 1 + next_random(state) % half;
	uint32_t device_at = next_random(state) % (EDU_BUFFER_BYTES - length + 1);
	uint32_t from = part_start + next_random(state) % (part - length + 1);
	uint32_t to = part_start + next_random(state) % (part - length + 1);
	uint64_t key = next_random(state), rest = next_random(state);
	uint32_t i;

	fill(key, from, from + length);
	transfer(from, device_at, length, EDU_TO_DEVICE);
	fill(rest, part_start, part_end);
	transfer(to, device_at, length, EDU_FROM_DEVICE);
	for (i = 0; i < length; i++) {
		unsigned char want = pattern(key, from + i);
		unsigned char got = ((volatile unsigned char *)shared)[to + i];

		if (got != want)
			report("DMA", to + i, want, got);
	}
	verify("store beside a DMA", rest, part_start, to);
	verify("store beside a DMA", rest, to + length, part_end);
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

int main(int count, char **arguments)
{
	uint64_t seed, state;
	double seconds, end;
	unsigned long long cuts = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (count != 4)
		errx(2, "usage: edu-hammer DEVICE SECONDS SEED");
	seconds = atof(arguments[2]);
	seed = strtoull(arguments[3], NULL, 0);
	state = seed;
	device = open(arguments[1], O_RDWR);
	if (device < 0)
		err(2, "cannot open %s", arguments[1]);
	shared = mmap(NULL, EDU_SHARED_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
		      device, 0);
	if (shared == MAP_FAILED)
		err(2, "cannot map the memory of %s", arguments[1]);

	end = now() + seconds;
	do {
		double cut_end = now() + 0.25;
		pthread_t thread;

		/* From the middle of one page to the middle of another. */
		part_start = 1 + next_random(&state) % (EDU_SHARED_BYTES / 2 - 2);
		part_end = part_start + 2 +
			   next_random(&state) % (EDU_SHARED_BYTES / 2 - 2);
		atomic_store(&running, 1);
		if (pthread_create(&thread, NULL, hammer, &seed))
			errx(2, "cannot start a thread");
		do {
			round_trip(&state);
		} while (now() < cut_end && now() < end);
		atomic_store(&running, 0);
		pthread_join(thread, NULL);
		seed = next_random(&state);
		cuts++;
	} while (now() < end);

	printf("cuts %llu transfers %llu dma-bytes %llu cpu-rounds %llu "
	       "cpu-bytes %llu lost %llu\n", cuts, transfers, dma_bytes, cpu_rounds,
	       cpu_bytes, (unsigned long long)atomic_load(&lost));
	return atomic_load(&lost) ? 1 : 0;
}
