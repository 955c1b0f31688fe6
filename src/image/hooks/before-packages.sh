#!/bin/sh
# mmdebstrap runs this with the new system's directory, before anything but the essential packages is in.
set -eu
root=$1

# A VIOT names the NVMe, which is not probed until virtio-iommu has bound: before the root is sought.
# The others let the image boot from other virtual disks too.
mkdir -p "$root/etc/initramfs-tools/conf.d"
printf 'MODULES=list\n' > "$root/etc/initramfs-tools/conf.d/sealbus"
printf '%s\n' virtio_iommu nvme virtio_blk virtio_scsi ext4 > "$root/etc/initramfs-tools/modules"
