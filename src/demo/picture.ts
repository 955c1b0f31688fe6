/** The picture that the demonstration sends through the device, drawn here so that it needs no licence. */

export interface Picture {
  readonly width: number;
  readonly height: number;
  /** RGB, three bytes a pixel, row by row. */
  readonly pixels: Uint8Array;
}

type Colour = readonly [red: number, green: number, blue: number];

const PAPER: Colour = [238, 231, 214];
const INK: Colour = [52, 62, 84];
const COPPER: Colour = [188, 140, 86];
const WAX: Colour = [176, 32, 38];
const LIGHT = [-0.48, -0.62, 0.62] as const;

/**
 * A letter under a wax seal, with the lines of a bus running into it: flat areas, edges and shading,
 * so that anything that survives encryption is seen at once. 442,368 bytes.
 */
export function sealedLetter(): Picture {
  const width = 512;
  const height = 288;
  const pixels = new Uint8Array(width * height * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      pixels.set(colourAt(x - width / 2, y - height / 2), (y * width + x) * 3);
    }
  }
  return { width, height, pixels };
}

function colourAt(x: number, y: number): Colour {
  const angle = Math.atan2(y, x);
  const rim = 92 + 5 * Math.sin(angle * 5 + 0.7) + 3 * Math.sin(angle * 11 + 2);
  const distance = Math.hypot(x, y);
  if (distance < rim) return wax(x, y, distance / rim);
  const shadow = Math.hypot(x - 7, y - 9) < rim ? 0.72 : 1;
  return shaded(background(x, y), shadow);
}

function background(x: number, y: number): Colour {
  // The lines of a bus, in two bundles, with vias where they end.
  const row = Math.floor((y + 144) / 12);
  const centre = row * 12 - 138;
  const end = 190 + 9 * (row % 5);
  if (Math.abs(Math.abs(centre) - 54) < 22) {
    if (Math.abs(y - centre) < 2 && Math.abs(x) < end) return COPPER;
    if (Math.hypot(y - centre, Math.abs(x) - end) < 5) return COPPER;
  }
  // The folds of the letter.
  const fold = Math.abs(Math.abs(x) * 0.5625 - Math.abs(y));
  if (y < 0 && fold < 1.2) return INK;
  if (Math.abs(x) > 246 || Math.abs(y) > 134) return INK;
  return shaded(PAPER, 1 - 0.0006 * Math.abs(x) - 0.0009 * Math.abs(y + 60));
}

/** A dome with a raised rim, and a keyhole pressed into it. `r` runs from 0 to 1 at the edge. */
function wax(x: number, y: number, r: number): Colour {
  const keyhole = Math.hypot(x, y + 16) < 21 || (y > -10 && y < 46 && Math.abs(x) < 7 + y * 0.22);
  const height = (at: number) => Math.exp(-(((at - 0.8) / 0.11) ** 2)) * 16 - at ** 6 * 22;
  const slope = (height(r + 0.01) - height(r - 0.01)) / 1.8;
  const length = Math.hypot(x, y) || 1;
  const normal = [(-slope * x) / length, (-slope * y) / length, 1] as const;
  const size = Math.hypot(...normal);
  const facing = (normal[0] * LIGHT[0] + normal[1] * LIGHT[1] + normal[2] * LIGHT[2]) / size;
  const brightness = keyhole ? 0.42 : 0.55 + 0.65 * Math.max(0, facing);
  const gloss = keyhole ? 0 : 120 * Math.max(0, facing) ** 24;
  const [red, green, blue] = shaded(WAX, brightness);
  return [clamp(red + gloss), clamp(green + gloss), clamp(blue + gloss)];
}

function shaded([red, green, blue]: Colour, by: number): Colour {
  return [clamp(red * by), clamp(green * by), clamp(blue * by)];
}

function clamp(value: number): number {
  return Math.max(0, Math.min(255, Math.round(value)));
}
