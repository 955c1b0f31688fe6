import type { PciLink } from './endpoint.ts';

/**
 * The link that a function gets from what stands around it: the transport's own, but for what the one around it has put
 * in its place.
 */
export function relayedLink(
  link: PciLink,
  replaced: Partial<Pick<PciLink, 'dma' | 'interrupts' | 'completions'>>,
): PciLink {
  const { dma, interrupts, completions, place, clock } = link;
  return {
    ...{ dma, interrupts },
    ...(completions === undefined ? {} : { completions }),
    ...(place === undefined ? {} : { place }),
    ...(clock === undefined ? {} : { clock: (own) => clock.call(link, own) }),
    unmodelled: (access) => link.unmodelled(access),
    fault: (error) => link.fault(error),
    ...replaced,
  };
}
