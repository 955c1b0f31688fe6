export type { DmaRegion, DmaRegionFile, RegionListener } from './dma-regions.ts';
export { VfioUserServer, type VfioUserServerOptions } from './server.ts';
