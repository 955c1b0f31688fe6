/*
 * Plays the CPU for bench/dma.ts: maps a RAM file, and puts ranges of its pages into a state of the
 * page cache, which is sealed RAM's CPU cache. A process of its own, as a vCPU's is.
 *
 * cpu_cache FILE BYTES
 * stdin, 20 bytes a command: u32 what, u64 offset, u64 length (both in whole pages).
 *   'd' | value << 8: stores the value in the first byte of each page: dirty
 *   'c': loads from each page, which is then written back: in the cache, clean
 *   'a': written back and dropped: not in the cache
 * stdout, 8 bytes a command: u64, how many of the pages are in the cache now.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, COMMAND_BYTES = 20, PAGES_MAX = 4096 };

static void touch(volatile unsigned char *at, size_t length)
{
    for (size_t done = 0; done < length; done += PAGE)
        (void)at[done];
}

static uint64_t resident(unsigned char *at, size_t length)
{
    static unsigned char pages[PAGES_MAX];
    uint64_t count = 0;

    if (mincore(at, length, pages) == -1)
        err(1, "mincore");
    for (size_t page = 0; page < length / PAGE; page++)
        count += pages[page] & 1;
    return count;
}

int main(int argc, char **argv)
{
    unsigned char command[COMMAND_BYTES];

    if (argc != 3)
        errx(2, "usage: cpu_cache FILE BYTES");
    size_t bytes = strtoull(argv[2], NULL, 10);
    int fd = open(argv[1], O_RDWR | O_CLOEXEC);
    if (fd == -1)
        err(1, "%s", argv[1]);
    unsigned char *ram = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (ram == MAP_FAILED)
        err(1, "mapping %zu bytes of %s", bytes, argv[1]);

    for (;;) {
        uint32_t what;
        uint64_t offset, length;

        for (size_t done = 0; done < COMMAND_BYTES;) {
            ssize_t got = read(STDIN_FILENO, command + done, COMMAND_BYTES - done);
            if (got == 0)
                return 0;
            if (got < 0)
                err(1, "reading a command");
            done += got;
        }
        memcpy(&what, command, 4);
        memcpy(&offset, command + 4, 8);
        memcpy(&length, command + 12, 8);
        if (offset % PAGE != 0 || length % PAGE != 0 || length == 0 || length / PAGE > PAGES_MAX ||
            offset > bytes || length > bytes - offset)
            errx(2, "expected whole pages inside the file");
        unsigned char *at = ram + offset;

        switch (what & 0xff) {
        case 'd':
            for (size_t done = 0; done < length; done += PAGE)
                *(volatile unsigned char *)(at + done) = what >> 8;
            break;
        case 'c':
            if (msync(at, length, MS_SYNC) == -1)
                err(1, "msync");
            touch(at, length);
            break;
        case 'a':
            if (msync(at, length, MS_SYNC) == -1 || madvise(at, length, MADV_DONTNEED) == -1)
                err(1, "msync and madvise");
            errno = posix_fadvise(fd, offset, length, POSIX_FADV_DONTNEED);
            if (errno != 0)
                err(1, "posix_fadvise");
            break;
        default:
            errx(2, "expected a command d, c or a");
        }
        uint64_t answer = resident(at, length);
        if (write(STDOUT_FILENO, &answer, sizeof(answer)) != sizeof(answer))
            err(1, "answering");
    }
}
