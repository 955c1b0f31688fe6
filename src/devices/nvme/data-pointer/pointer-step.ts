import type { Status } from '../status.ts';

/** The walk wants bytes out of host memory before it can go on. */
export const FETCH = -1;

/** What a step of the walk came to: `success` when all the data has a place. */
export type PointerStep = Status | typeof FETCH;
