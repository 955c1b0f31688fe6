/*
 * The peer that sealbus is measured against: QEMU's edu as libvfio-user's own C API serves it, in a
 * blocking loop. A complete device, so that QEMU can attach it: 1234:11e8, BAR0 of 1 MiB, one MSI
 * vector or INTx.
 *
 * cc -O2 -D_GNU_SOURCE -I<libvfio-user>/include server.c <libvfio-user.so> -Wl,-rpath,<its folder>
 * server SOCKET
 */
#include <err.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libvfio-user.h"

enum {
    BAR_BYTES = 1 << 20,
    REG_ID = 0x00,
    REG_LIVENESS = 0x04,
    REG_FACTORIAL = 0x08,
    REG_STATUS = 0x20,
    REG_IRQ_STATUS = 0x24,
    REG_RAISE = 0x60,
    REG_ACK = 0x64,
    CAP_MSI = 0x40,
    /* liveness, factorial, status, irq status */
    ID_VALUE = 0x010000ed,
    STATUS_IRQFACT = 0x80,
};

static struct {
    uint32_t liveness, factorial, status, irq_status;
} edu;

static void raise_irq(vfu_ctx_t *ctx, uint32_t bits)
{
    edu.irq_status |= bits;
    if (edu.irq_status != 0) {
        vfu_irq_trigger(ctx, 0);
    }
}

static uint32_t read_register(loff_t offset)
{
    switch (offset) {
    case REG_ID: return ID_VALUE;
    case REG_LIVENESS: return edu.liveness;
    case REG_FACTORIAL: return edu.factorial;
    case REG_STATUS: return edu.status;
    case REG_IRQ_STATUS: return edu.irq_status;
    default: return 0xffffffff;
    }
}

static void write_register(vfu_ctx_t *ctx, loff_t offset, uint32_t value)
{
    switch (offset) {
    case REG_LIVENESS:
        edu.liveness = ~value;
        break;
    case REG_FACTORIAL:
        edu.factorial = 1;
        for (uint32_t i = 2; i <= value && i <= 64; i++) {
            edu.factorial *= i;
        }
        if (edu.status & STATUS_IRQFACT) {
            raise_irq(ctx, 1);
        }
        break;
    case REG_STATUS:
        edu.status = value & STATUS_IRQFACT;
        break;
    case REG_RAISE:
        raise_irq(ctx, value);
        break;
    case REG_ACK:
        edu.irq_status &= ~value;
        break;
    }
}

static ssize_t on_bar0(vfu_ctx_t *ctx, char *buf, size_t count, loff_t offset, bool is_write)
{
    uint32_t value = 0;

    if (count > sizeof(value)) {
        errno = EINVAL;
        return -1;
    }
    if (is_write) {
        memcpy(&value, buf, count);
        write_register(ctx, offset, value);
    } else {
        value = read_register(offset);
        memcpy(buf, &value, count);
    }
    return count;
}

/* The library's own capability handler has no MSI: plain bytes are enough. */
static ssize_t on_config(vfu_ctx_t *ctx, char *buf, size_t count, loff_t offset, bool is_write)
{
    char *at = (char *)vfu_pci_get_config_space(ctx) + offset;

    if (is_write) {
        memcpy(at, buf, count);
        if (offset <= CAP_MSI && offset + (loff_t)count > CAP_MSI) {
            ((uint8_t *)vfu_pci_get_config_space(ctx))[CAP_MSI] = 0x05;
        }
    } else {
        memcpy(buf, at, count);
    }
    return count;
}

static int on_reset(vfu_ctx_t *ctx, vfu_reset_type_t type)
{
    (void)type;
    memset(&edu, 0, sizeof(edu));
    ((uint8_t *)vfu_pci_get_config_space(ctx))[CAP_MSI + 2] &= ~1;
    return 0;
}

static void on_map(vfu_ctx_t *ctx, vfu_dma_info_t *info)
{
    (void)ctx;
    (void)info;
}

static void on_log(vfu_ctx_t *ctx, int level, const char *message)
{
    (void)ctx;
    (void)level;
    fprintf(stderr, "server: %s\n", message);
}

int main(int argc, char **argv)
{
    /* MSI, 64-bit address, one vector; the next capability is none. */
    static const uint8_t msi[] = {0x05, 0x00, 0x80, 0x00};
    vfu_ctx_t *ctx;

    if (argc != 2) {
        errx(2, "usage: server SOCKET");
    }
    ctx = vfu_create_ctx(VFU_TRANS_SOCK, argv[1], 0, NULL, VFU_DEV_TYPE_PCI);
    if (ctx == NULL) {
        err(1, "vfu_create_ctx at %s", argv[1]);
    }
    if (vfu_setup_log(ctx, on_log, LOG_ERR) == -1 ||
        vfu_pci_init(ctx, VFU_PCI_TYPE_CONVENTIONAL, PCI_HEADER_TYPE_NORMAL, 0) == -1 ||
        vfu_setup_region(ctx, VFU_PCI_DEV_BAR0_REGION_IDX, BAR_BYTES, on_bar0,
                         VFU_REGION_FLAG_RW | VFU_REGION_FLAG_MEM, NULL, 0, -1, 0) == -1 ||
        vfu_setup_region(ctx, VFU_PCI_DEV_CFG_REGION_IDX, PCI_CFG_SPACE_SIZE, on_config,
                         VFU_REGION_FLAG_RW, NULL, 0, -1, 0) == -1 ||
        vfu_setup_device_reset_cb(ctx, on_reset) == -1 ||
        vfu_setup_device_dma(ctx, on_map, on_map) == -1 ||
        vfu_setup_device_nr_irqs(ctx, VFU_DEV_INTX_IRQ, 1) == -1 ||
        vfu_setup_device_nr_irqs(ctx, VFU_DEV_MSI_IRQ, 1) == -1 ||
        vfu_setup_device_nr_irqs(ctx, VFU_DEV_ERR_IRQ, 0) == -1 ||
        vfu_setup_device_nr_irqs(ctx, VFU_DEV_REQ_IRQ, 0) == -1) {
        err(1, "setting the device up");
    }
    vfu_pci_set_id(ctx, 0x1234, 0x11e8, 0x1af4, 0x1100);
    vfu_pci_set_class(ctx, 0x00, 0xff, 0x00);
    if (vfu_realize_ctx(ctx) == -1) {
        err(1, "vfu_realize_ctx");
    }
    vfu_pci_config_space_t *config = vfu_pci_get_config_space(ctx);
    config->hdr.rid = 0x10;
    config->hdr.cap = CAP_MSI;
    config->hdr.sts.cl = 1;
    memcpy((char *)config + CAP_MSI, msi, sizeof(msi));

    puts("listening");
    fflush(stdout);
    for (;;) {
        if (vfu_attach_ctx(ctx) == -1) {
            if (errno == EINTR || errno == ECONNRESET) {
                continue;
            }
            err(1, "vfu_attach_ctx");
        }
        while (vfu_run_ctx(ctx) != -1 || errno == EINTR) {
        }
        if (errno != ENOTCONN) {
            err(1, "vfu_run_ctx");
        }
    }
}
