import { Command } from 'commander';
import { openTrace } from '../../trace/read-trace.ts';
import { reportOf } from '../../trace/report/report.ts';
import { reportText } from '../report-text.ts';

export function reportCommand(): Command {
  return new Command('report')
    .description('say what a trace has to say to those who write the driver')
    .argument('<trace>', 'what sealbus trace, or sealbus run --trace, wrote')
    .option('--json', 'all of it as one JSON object')
    .addHelpText(
      'after',
      '\nRegisters never touched; accesses that the device does not model; reads in a row of one register with' +
        '\none value; doorbells that led to no DMA, no interrupt and no register that changed; DMA between a reset' +
        '\nand the driver’s next access; refused DMA; buffers mapped and never used. docs/traces.md says what' +
        '\neach one means.',
    )
    .action((path: string, flags: { readonly json?: boolean }) => {
      const report = reportOf(openTrace(path));
      process.stdout.write(flags.json ? `${JSON.stringify(report)}\n` : reportText(report));
    });
}
