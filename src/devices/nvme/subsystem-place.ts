/** A secondary controller, as the primary one tells of it (NVMe 1.4 §8.5). */
export interface SecondaryController {
  readonly controllerId: number;
  /** From 1, as PCI numbers virtual functions. */
  readonly virtualFunction: number;
  /** Whether its function has a controller now. */
  readonly online: boolean;
}

/** Of a subsystem, beside its physical function. */
export const VIRTUAL_FUNCTIONS_MAX = 64;

/** What a controller knows of the NVM subsystem that it is in. */
export interface SubsystemPlace {
  /** CNTLID, unique in the subsystem. */
  readonly controllerId: number;
  /** `only`: there is no other. `primary` is a physical function's, `secondary` a virtual one's. */
  readonly role: 'only' | 'primary' | 'secondary';
  /** Of the primary one: by rising controller ID, as they are now. None of another controller's business. */
  readonly secondaries: readonly SecondaryController[];
}

/** Of a controller that is a subsystem by itself. */
export const ONLY_CONTROLLER: SubsystemPlace = {
  ...{ controllerId: 1, role: 'only', secondaries: [] },
};
