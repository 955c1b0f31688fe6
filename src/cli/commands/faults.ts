import { Command } from 'commander';
import { catalogue, TRIGGERS } from '../../faults/index.ts';

export function faultsCommand(): Command {
  return new Command('faults')
    .description('list the faults that can be had on demand, and what each of them takes')
    .option('--json', 'print the list as JSON')
    .action(({ json }: { json?: boolean }) => {
      process.stdout.write(json ? `${JSON.stringify(described(), null, 2)}\n` : text());
    });
}

function described() {
  return Object.entries(catalogue).map(([name, { says, occasion, parameters }]) => {
    const own = Object.entries(parameters).map(([key, parameter]) => [key, parameter.says]);
    return { name, says, occasion, parameters: Object.fromEntries(own) as Record<string, string> };
  });
}

function text(): string {
  const faults = described().map(({ name, says, occasion, parameters }) =>
    [
      name,
      `  ${says}`,
      `  counts: ${occasion}`,
      ...Object.entries(parameters).map(([key, meaning]) => `  ${key}=  ${meaning}`),
    ].join('\n'),
  );
  const triggers = Object.entries({
    ...TRIGGERS,
    times: 'at most so many strikes at each function',
    rid: 'only at this function, such as 00:04.0; default each one but a virtio-iommu',
  }).map(([key, meaning]) => `  ${key}=  ${meaning}`);
  return `${[...faults, ['when a fault strikes (default nth=1)', ...triggers].join('\n')].join('\n\n')}\n`;
}
