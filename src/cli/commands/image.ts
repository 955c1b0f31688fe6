import { readFileSync } from 'node:fs';
import { Command, InvalidArgumentError } from 'commander';
import { diskBytesDefault, makeDebianImage } from '../../image/debian-image.ts';
import { diskBytesMax, diskBytesMin } from '../../image/disk-layout.ts';
import { ImageError } from '../../image/image-error.ts';
import { parseBytes } from '../../machine/memory-size.ts';
import { renderProgress } from '../../setup/progress.ts';
import { interruptible } from '../interruption.ts';
import { PhaseDisplay } from '../phase-display.ts';

interface ImageFlags {
  readonly size: number;
  readonly package: readonly string[];
  readonly hostname: string;
  readonly rootPasswordFile?: string;
  readonly force?: boolean;
  readonly json?: boolean;
}

export function imageCommand(): Command {
  return new Command('image')
    .description('make disk images for --disk')
    .addCommand(debianCommand());
}

function debianCommand(): Command {
  return new Command('debian')
    .description('make a Debian trixie that SeaBIOS and UEFI boot, in a raw file')
    .argument('[file]', 'the image', 'debian.img')
    .option('--size <bytes>', 'of the disk, in whole MiB from 1G on (default: 4G)', parseDiskSize)
    .option('--package <name>', 'one more package; may be repeated', append, [])
    .option('--hostname <name>', 'its name', 'debian')
    .option('--root-password-file <file>', "root's password is its first line (default: none)")
    .option('--force', 'replace the file')
    .option('--json', 'print what was made as one JSON object')
    .addHelpText(
      'after',
      '\nWITHOUT --root-password-file ROOT HAS NO PASSWORD: whoever sees the console is root.' +
        '\n\nPackages come from the archive of this host’s APT configuration and are checked against' +
        '\nDebian’s keys. Nothing is mounted. Who is not root needs subordinate uids (/etc/subuid).',
    )
    .action(async (file: string, flags: ImageFlags) => {
      await interruptible((signal) => makeImage(file, flags, signal));
    });
}

async function makeImage(file: string, flags: ImageFlags, signal: AbortSignal): Promise<void> {
  const display = new PhaseDisplay();
  const setUp = renderProgress();
  const { rootPasswordFile, size: bytes = diskBytesDefault, hostname } = flags;
  try {
    const made = await makeDebianImage({
      ...{ file, bytes, hostname, signal },
      replace: flags.force === true,
      packages: flags.package.flatMap((names) => names.split(',')),
      ...(rootPasswordFile === undefined ? {} : { rootPassword: firstLine(rootPasswordFile) }),
      onPhase: (words) => {
        setUp.end();
        display.begin(words);
      },
      progress: (event) => {
        // Once the image is being made, only its own phases are shown.
        if (!display.running) setUp.event(event);
      },
    });
    display.end();
    if (rootPasswordFile === undefined) {
      process.stderr.write('sealbus: NOTE: root has no password in this image\n');
    }
    process.stdout.write(flags.json ? `${JSON.stringify(made)}\n` : `${made.file}\n`);
  } finally {
    setUp.end();
    display.end();
  }
}

/** @throws ImageError where the file cannot be read */
function firstLine(file: string): string {
  try {
    return readFileSync(file, 'utf8').split('\n', 1)[0] ?? '';
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new ImageError(`expected a file with root's password in its first line, got ${why}`);
  }
}

function parseDiskSize(text: string): number {
  const bytes = parseBytes(text);
  if (bytes >= diskBytesMin && bytes <= diskBytesMax && bytes % 2 ** 20 === 0) return bytes;
  throw new InvalidArgumentError('expected a size in whole MiB from 1G to 2048G, such as 8G');
}

function append(text: string, before: readonly string[]): string[] {
  return [...before, text];
}
