import { createHash } from 'node:crypto';

/** What a namespace is known by wherever it turns up, NVMe 1.4 §7.10 and §7.11; big-endian. */
export interface NamespaceIdentifiers {
  readonly eui64: Uint8Array;
  readonly nguid: Uint8Array;
  readonly uuid: Uint8Array;
}

/** Bit 1 of an EUI's first octet: locally administered; bit 0, which stays clear: a group. */
const LOCALLY_ADMINISTERED = 0x02;
const GROUP = 0x01;

/**
 * The same for the same serial number and NSID, in each run and on each host, and in all likelihood
 * for no other pair.
 */
export function namespaceIdentifiers(serialNumber: string, nsid: number): NamespaceIdentifiers {
  const derive = (kind: string, bytes: number) =>
    new Uint8Array(
      createHash('sha256').update(`sealbus ${kind}\0${serialNumber}\0${nsid}`).digest(),
    ).subarray(0, bytes);
  const eui64 = derive('EUI64', 8);
  eui64[0] = (eui64[0]! & ~GROUP) | LOCALLY_ADMINISTERED;
  // An NGUID is an EUI-64 behind an extension of 8 octets.
  const nguid = derive('NGUID', 16);
  nguid.set(eui64, 8);
  // RFC 9562 §5.8: version 8, whose other bits are whoever's makes it, of the variant 10b.
  const uuid = derive('UUID', 16);
  uuid[6] = (uuid[6]! & 0x0f) | 0x80;
  uuid[8] = (uuid[8]! & 0x3f) | 0x80;
  return { eui64, nguid, uuid };
}

/** Namespace Identifier Type, §5.15.2.4. */
const IdentifierType = { eui64: 1, nguid: 2, uuid: 3 } as const;

/**
 * Namespace Identification Descriptor list, NVMe 1.4 §5.15.2.4 (CNS 03h): type, length, two reserved
 * bytes and the identifier, one after another; a length of 0 ends it.
 */
export function identificationDescriptors(
  identifiers: NamespaceIdentifiers,
): Uint8Array<ArrayBuffer> {
  const data = new Uint8Array(4096);
  let at = 0;
  for (const kind of ['eui64', 'nguid', 'uuid'] as const) {
    const identifier = identifiers[kind];
    data[at] = IdentifierType[kind];
    data[at + 1] = identifier.length;
    data.set(identifier, at + 4);
    at += 4 + identifier.length;
  }
  return data;
}
