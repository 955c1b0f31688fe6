/*
 * Drives one edu over a vfio-user socket as a VMM's thread does: blocking register reads, and
 * doorbells that come back as an eventfd. Prints one line of JSON with medians in nanoseconds.
 *
 * cc -O2 -D_GNU_SOURCE client.c
 * client SOCKET READS DOORBELLS
 */
#include <err.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { VERSION = 1, SET_IRQS = 8, REGION_READ = 9, REGION_WRITE = 10, NO_REPLY = 0x10 };

struct header {
    uint16_t id, command;
    uint32_t size, flags, error;
};

struct access {
    struct header header;
    uint64_t offset;
    uint32_t region, count;
    uint32_t value;
} __attribute__((packed));

struct set_irqs {
    struct header header;
    uint32_t argsz, flags, index, start, count;
} __attribute__((packed));

static int sock;
static uint16_t next_id;

static void send_all(const void *message, size_t size, int fd)
{
    char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {.iov_base = (void *)message, .iov_len = size};
    struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1};

    if (fd >= 0) {
        header.msg_control = control;
        header.msg_controllen = sizeof(control);
        struct cmsghdr *cmsg = CMSG_FIRSTHDR(&header);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(cmsg), &fd, sizeof(int));
    }
    if (sendmsg(sock, &header, MSG_NOSIGNAL) != (ssize_t)size) {
        err(1, "sendmsg");
    }
}

static void receive_reply(void *reply, size_t size)
{
    struct header *header = reply;

    if (recv(sock, reply, sizeof(*header), MSG_WAITALL) != sizeof(*header)) {
        err(1, "recv of a header");
    }
    if (header->error != 0) {
        errx(1, "command %u: %s", header->command, strerror(header->error));
    }
    size_t body = header->size - sizeof(*header);
    if (header->size < sizeof(*header) || header->size > size) {
        errx(1, "a reply of %u bytes", header->size);
    }
    if (body > 0 && recv(sock, header + 1, body, MSG_WAITALL) != (ssize_t)body) {
        err(1, "recv of a body");
    }
}

static uint32_t read_register(uint64_t offset)
{
    struct access message = {
        .header = {next_id++, REGION_READ, sizeof(message) - 4, 0, 0}, .offset = offset, .count = 4};

    send_all(&message, sizeof(message) - 4, -1);
    receive_reply(&message, sizeof(message));
    return message.value;
}

/* Posted, as QEMU writes. */
static void write_register(uint64_t offset, uint32_t value)
{
    struct access message = {.header = {next_id++, REGION_WRITE, sizeof(message), NO_REPLY, 0},
                             .offset = offset, .count = 4, .value = value};

    send_all(&message, sizeof(message), -1);
}

static double now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e9 + now.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof(*values), compare);
    return values[count / 2];
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char version[] = "\0\0\1\0{\"capabilities\":{\"max_msg_fds\":8}}";
    char buffer[4096];

    if (argc != 4 || strlen(argv[1]) >= sizeof(address.sun_path)) {
        errx(2, "usage: client SOCKET READS DOORBELLS");
    }
    size_t reads = strtoul(argv[2], NULL, 10), doorbells = strtoul(argv[3], NULL, 10);
    if (reads == 0 || doorbells == 0 || reads > 1000000 || doorbells > 1000000) {
        errx(2, "expected 1 to 1000000 reads and doorbells");
    }
    sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    strcpy(address.sun_path, argv[1]);
    if (sock == -1 || connect(sock, (struct sockaddr *)&address, sizeof(address)) == -1) {
        err(1, "connecting to %s", argv[1]);
    }
    struct header header = {next_id++, VERSION, sizeof(header) + sizeof(version), 0, 0};
    memcpy(buffer, &header, sizeof(header));
    memcpy(buffer + sizeof(header), version, sizeof(version));
    send_all(buffer, sizeof(header) + sizeof(version), -1);
    receive_reply(buffer, sizeof(buffer));

    int event = eventfd(0, EFD_CLOEXEC);
    /* Trigger by eventfd, index MSI, vector 0. */
    struct set_irqs irqs = {.header = {next_id++, SET_IRQS, sizeof(irqs), 0, 0},
                            .argsz = sizeof(irqs) - sizeof(header), .flags = 32 | 4, .index = 1, .count = 1};
    send_all(&irqs, sizeof(irqs), event);
    receive_reply(buffer, sizeof(buffer));

    if (read_register(0) != 0x010000ed) {
        errx(1, "expected the id of edu");
    }
    double *samples = calloc(reads > doorbells ? reads : doorbells, sizeof(*samples));
    for (size_t i = 0; i < reads; i++) {
        double start = now_ns();
        read_register(4);
        samples[i] = now_ns() - start;
    }
    double read_ns = median(samples, reads);
    for (size_t i = 0; i < doorbells; i++) {
        uint64_t signals;
        double start = now_ns();
        write_register(0x60, 1);
        if (read(event, &signals, sizeof(signals)) != sizeof(signals)) {
            err(1, "read of the eventfd");
        }
        samples[i] = now_ns() - start;
        write_register(0x64, 1);
    }
    printf("{\"mmioRead\":%.0f,\"doorbellToInterrupt\":%.0f}\n", read_ns, median(samples, doorbells));
    return 0;
}
