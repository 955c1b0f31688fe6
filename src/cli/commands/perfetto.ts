import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { Command } from 'commander';
import { gathered, perfettoOf, writePieces } from '../perfetto-file.ts';

export function perfettoCommand(): Command {
  return new Command('perfetto')
    .description('turn traces into one for ui.perfetto.dev, a track for each function')
    .argument('<trace...>', 'what sealbus trace wrote; several are put side by side in time')
    .option('-o, --output <file>', 'where it goes (default: stdout)')
    .action(async (paths: string[], { output }: { readonly output?: string }) => {
      const pieces = perfettoOf(paths);
      if (output !== undefined) {
        writePieces(output, pieces);
        return;
      }
      try {
        await pipeline(Readable.from(gathered(pieces)), process.stdout, { end: false });
      } catch (error) {
        // A reader that has gone (`sealbus perfetto … | head`) has what it wanted.
        if (!isClosedPipe(error)) throw error;
      }
    });
}

function isClosedPipe(error: unknown): boolean {
  if (!(error instanceof Error && 'code' in error)) return false;
  return error.code === 'EPIPE' || error.code === 'ERR_STREAM_PREMATURE_CLOSE';
}
