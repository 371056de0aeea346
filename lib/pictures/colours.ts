/** A colour: red, green, blue, 0 to 255. */
export type Colour = readonly [red: number, green: number, blue: number];

/** Names of the colour maps: perceptually even, and readable without colour vision. */
export type ColourMapName = "viridis" | "magma";

/**
 * Sixth-degree fits, per channel in powers of t, of matplotlib's viridis and magma (N. Smith, S. van der Walt; CC0). The
 * fits (M. Zucker, public domain) stay within about 6 levels of 255 of the originals.
 */
const fits: Record<ColourMapName, readonly Colour[]> = {
  viridis: [
    [0.2777273272234177, 0.005407344544966578, 0.3340998053353061],
    [0.1050930431085774, 1.404613529898575, 1.384590162594685],
    [-0.3308618287255563, 0.214847559468213, 0.09509516302823659],
    [-4.634230498983486, -5.799100973351585, -19.33244095627987],
    [6.228269936347081, 14.17993336680509, 56.69055260068105],
    [4.776384997670288, -13.74514537774601, -65.35303263337234],
    [-5.435455855934631, 4.645852612178535, 26.3124352495832],
  ],
  magma: [
    [-0.002136485053939582, -0.000749655052795221, -0.005386127855323933],
    [0.2516605407371642, 0.6775232436837668, 2.494026599312351],
    [8.353717279216625, -3.577719514958484, 0.3144679030132573],
    [-27.66873308576866, 14.26473078096533, -13.64921318813922],
    [52.17613981234068, -27.94360607168351, 12.94416944238394],
    [-50.76852536473588, 29.04658282127291, 4.23415299384598],
    [18.65570506591883, -11.48977351997711, -5.601961508734096],
  ],
};

const tables = new Map<ColourMapName, Uint8Array>();

/** A colour map's 256 colours, as 768 bytes. */
export function colourMap(name: ColourMapName): Uint8Array {
  let table = tables.get(name);
  if (!table) {
    const terms = fits[name];
    table = new Uint8Array(768);
    for (let i = 0; i < 256; i++) {
      for (let channel = 0; channel < 3; channel++) {
        const value = terms.reduceRight((sum, term) => sum * (i / 255) + term[channel]!, 0);
        table[i * 3 + channel] = Math.round(255 * Math.min(1, Math.max(0, value)));
      }
    }
    tables.set(name, table);
  }
  return table;
}

/** Outlines of the truth: cyan. It and {@link predictionColour} differ in lightness too, and stand out on grey. */
export const truthColour: Colour = [110, 222, 255];

/** Outlines of the prediction: orange. */
export const predictionColour: Colour = [250, 122, 0];

/** What lies between inner and outer masks, and their edges: a light amber, of the prediction's kind. */
export const setsColour: Colour = [255, 206, 110];

/** Eight colours less black that are told apart without colour vision: M. Okabe and K. Ito, "Color Universal Design", 2008. */
const CLASS_COLOURS: readonly Colour[] = [
  [230, 159, 0],
  [86, 180, 233],
  [0, 158, 115],
  [240, 228, 66],
  [0, 114, 178],
  [213, 94, 0],
  [204, 121, 167],
];

/** The colour of a foreground class, from 1, where each has one of its own; after the seventh they begin anew. */
export function classColour(index: number): Colour {
  return CLASS_COLOURS[(index - 1) % CLASS_COLOURS.length] as Colour;
}
