/** Why a FUSE file system cannot be mounted here, and what to do. */
export class FuseUnavailable extends Error {
  override readonly name = 'FuseUnavailable';
}
