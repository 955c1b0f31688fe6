/** Everything outside npm that sealbus stands on, found or set up; all paths absolute. */
export interface Parts {
  readonly qemu: QemuPart;
  readonly libvfioUser: LibvfioUserPart;
  readonly kernel: KernelPart;
  readonly busybox: { readonly version: string; readonly path: string };
}

export interface QemuPart {
  readonly version: string;
  readonly source: 'host' | 'debian';
  /** Put in front of QEMU's own arguments: the program (the tree's loader, where unpacked) and its arguments. */
  readonly command: readonly [program: string, ...args: string[]];
  /** To be added to the environment. */
  readonly env: Readonly<Record<string, string>>;
}

export interface LibvfioUserPart {
  /** Debian's version of the qemu source package. */
  readonly version: string;
  /** The shared object, linked against libc alone. */
  readonly library: string;
  /** The unpacked source (include/, lib/, samples/): the C peers of tests and benchmarks are built from it. */
  readonly source: string;
}

export interface KernelPart {
  /** As uname -r prints it: 6.12.….-cloud-amd64. */
  readonly release: string;
  /** ELF vmlinux with a PVH entry: boots fastest. */
  readonly vmlinux: string;
  readonly bzImage: string;
  /** lib/modules/<release>, unpacked; of a kernel that was built here, the build directory. */
  readonly modules: string;
  /** What to give to `make -C` for out-of-tree modules, and the variables it needs on this host. */
  readonly build: {
    readonly directory: string;
    readonly variables: Readonly<Record<string, string>>;
    /** Changes when modules have to be built again, where the directory's name does not say so. */
    readonly identity?: string;
  };
}

/** GRUB's images, the same for every disk that sealbus lays out. Fetched when one is first made. */
export interface GrubPart {
  readonly version: string;
  /** 512 bytes for sector 0: where the core image lies is still to be written into it. */
  readonly bootImage: string;
  /** For the BIOS-boot partition: its block list is still to be written. */
  readonly coreImage: string;
  /** BOOTX64.EFI. */
  readonly efiImage: string;
}

/** UEFI for the guest: code and an empty variable store, for two flash chips. Fetched on demand. */
export interface OvmfPart {
  readonly version: string;
  readonly code: string;
  readonly variables: string;
}

export type PartName =
  | 'qemu'
  | 'libvfio-user'
  | 'kernel'
  | 'kernel-backports'
  | 'kernel-release'
  | 'busybox'
  | 'grub'
  | 'ovmf';

/** One line of `sealbus doctor`: a part, or something that the host can or cannot do. */
export interface PartReport {
  readonly name: string;
  readonly kind: 'part' | 'program' | 'device';
  readonly found: boolean;
  /** Whether anything of sealbus fails without it. */
  readonly required: boolean;
  readonly version?: string;
  readonly where?: string;
  /** What to do where it is not found. */
  readonly remedy?: string;
}
