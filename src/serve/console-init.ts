import type { GuestImageOptions } from '../vm/guest-image.ts';

/** Where it is in the guest's image. */
const PATH = 'sbin/console-init';

/**
 * For a guest that somebody starts by hand: no agent's port, the console is a terminal. A shell on it, with the
 * drivers that the image has; its end powers off.
 */
const SCRIPT = `#!/bin/sh
export PATH=/bin:/sbin HOME=/root TERM=vt100
mount -t devtmpfs dev /dev 2> /dev/null
mkdir -p /proc /sys /run /tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in /lib/modules/*.ko; do insmod "$module"; done
setsid cttyhack sh -l
poweroff -f
`;

export const consoleImage: GuestImageOptions = {
  files: { [PATH]: { bytes: Buffer.from(SCRIPT), mode: 0o755 } },
};

export const consoleArguments: readonly string[] = [`rdinit=/${PATH}`];
