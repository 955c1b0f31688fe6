#!/bin/sh
# mmdebstrap runs this with the new system's directory, when all packages are in.
set -eu
root=$1

printf '%s\n' "$SEALBUS_HOSTNAME" > "$root/etc/hostname"
printf '127.0.0.1\tlocalhost\n127.0.1.1\t%s\n::1\tlocalhost\n' "$SEALBUS_HOSTNAME" > "$root/etc/hosts"
printf 'PARTUUID=%s\t/\text4\terrors=remount-ro\t0\t1\n' "$SEALBUS_ROOT_ID" > "$root/etc/fstab"
# Empty rather than absent: it is made at the first boot, which then asks no questions.
: > "$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id" "$root/etc/resolv.conf"

# For snapshots of LVM volumes, which are not here; it takes seconds at each boot.
ln -sf /dev/null "$root/etc/systemd/system/e2scrub_reap.service"

mkdir -p "$root/boot/grub"
printf '%s' "$SEALBUS_GRUB_CONFIGURATION" > "$root/boot/grub/grub.cfg"

if [ -n "$SEALBUS_ROOT_PASSWORD" ]; then
  printf 'root:%s\n' "$SEALBUS_ROOT_PASSWORD" | chroot "$root" chpasswd
else
  chroot "$root" passwd --quiet --delete root
fi

# What was said to APT and dpkg for the making alone.
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap" "$root/etc/apt/sources.list"
sed -i '/^force-/d' "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
cat > "$root/etc/apt/sources.list.d/debian.sources" << END
Types: deb
URIs: $SEALBUS_ARCHIVE
Suites: trixie
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.pgp
END
