/** Ends a device's work where nothing of it counts any more: it has differed from the recording. */
export class ReplayStop extends Error {
  override readonly name = 'ReplayStop';

  constructor() {
    super('the replay has ended at the first difference');
  }
}

/** A replay that cannot be: the trace or the device is not such. Says what to do. */
export class ReplayError extends Error {
  override readonly name = 'ReplayError';
}
