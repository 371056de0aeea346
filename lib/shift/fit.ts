// What is learned of the training's images, so that later ones can be told from them (SPEC 16).
import { checkFinite, fail } from "../checks.js";
import { checkOptions, option, type Values } from "../options.js";
import { distanceIn, type TapSpace } from "./distance.js";
import { coordinatesOf, DIMENSIONS, fitSpace } from "./space.js";
import { BESIDE, joined, type TapStatistics } from "./statistics.js";

/** How far an image is from the training's: the Mahalanobis distance, or the distance to the fifth nearest of them. */
export const MEASURES = ["mahalanobis", "neighbours"] as const satisfies readonly Measure[];

/** The Mahalanobis distance, or the distance to the fifth nearest training image. */
export type Measure = "mahalanobis" | "neighbours";

/** Layers that a distance is of, by where they are: the first of ten, in depth order, or every one. */
export const TAP_CHOICES = ["early", "all"] as const;

/** Fewest images that a fit is made of. */
export const FEWEST = { training: 8, validation: 5 } as const;

export const SHIFT = {
  /**
   * Layers that {@link TapDistance.value} is of: the first tenth in depth, of ten and fewer the first one, which sees the scanner
   * best, and which means over more only dilute; all; or these.
   * @default "early"
   */
  taps: option.anyOf(option.oneOf(TAP_CHOICES), option.array(option.string(), { min: 1 })),
  /** @default "mahalanobis" */
  measure: option.oneOf(MEASURES),
  /** Most principal components of a layer's statistics. @default 64 */
  dimensions: option.integer({ min: 1, max: 4096 }),
};

/** Options of {@link fitShift}. */
export interface ShiftOptions extends Values<typeof SHIFT> {}

/** What is known of the training's images: see {@link fitShift}. */
export interface ShiftFit {
  /** How distances are measured. */
  measure: Measure;
  /** By layer, in depth order. */
  taps: readonly TapSpace[];
  /** Names of the layers that {@link TapDistance.value} is of, in depth order. */
  chosen: readonly string[];
  /** How many images it is made of. */
  images: {
    /** Of the training. */
    training: number;
    /** Of validation. */
    validation: number;
  };
}

/**
 * Learns what the features of training images look like. Of each layer: the statistics are standardised, projected on their
 * first min(64, 2C, n/4) principal components, and whitened by their Ledoit-Wolf covariance; distances are ranked among those
 * of the validation images, which the network has not been trained on. A layer whose features are the same for all images
 * is left out. The first layer's statistics are joined by `(stored)`, `(texture)` and `(input)`, where the images have them.
 * @param training by image; at least 8
 * @param validation by image; at least 5
 * @throws ERR_LE_SHAPE for too few images, or images of other layers than the first; ERR_LE_VALUE for numbers that are not
 *   finite, and where no layer is left; ERR_LE_OPTION
 */
export function fitShift(
  training: readonly TapStatistics[],
  validation: readonly TapStatistics[],
  options: ShiftOptions = {},
): ShiftFit {
  const { taps: wanted = "early", measure = "mahalanobis", dimensions } = checkOptions("fitShift", options, SHIFT);
  for (const [name, images] of Object.entries({ training, validation }))
    if (images.length < FEWEST[name as keyof typeof FEWEST])
      fail(
        "ERR_LE_SHAPE",
        `${name} of fitShift`,
        `${FEWEST[name as keyof typeof FEWEST]} images or more`,
        `${images.length}`,
      );
  const first = training[0] as TapStatistics;
  const beside = BESIDE.filter((name) => [...training, ...validation].every((image) => name in image));
  const names = Object.keys(first).filter((name) => !BESIDE.includes(name));
  const taps = names.flatMap((tap, t): TapSpace[] => {
    const sources = t === 0 ? [...beside, tap] : [tap];
    const of = (images: readonly TapStatistics[], what: string) => {
      const all = sources.map((name) => vectorsOf(images, name, what, first[name]?.length ?? 0));
      return images.map((_, i) => joined(all.map((vectors) => vectors[i] as Float32Array)));
    };
    const known = of(training, "training");
    const space = fitSpace(known, dimensions ?? DIMENSIONS);
    const size = space.whitening.length / space.mean.length;
    if (size === 0) return [];
    const whole: TapSpace = {
      tap,
      parts: sources.map((name) => ({ of: name, channels: (first[name] as Float32Array).length / 2 })),
      ...space,
      ...(measure === "neighbours" && {
        training: Float32Array.from(known.flatMap((v) => [...coordinatesOf(space, v)])),
      }),
      distances: new Float64Array(0),
    };
    const distances = Float64Array.from(of(validation, "validation"), (v) => distanceIn(whole, v)).sort();
    return [{ ...whole, distances }];
  });
  if (taps.length === 0)
    fail("ERR_LE_VALUE", "training of fitShift", "a layer whose features differ between images", "none");
  return {
    measure,
    taps,
    chosen: chosenOf(
      taps.map(({ tap }) => tap),
      wanted,
    ),
    images: { training: training.length, validation: validation.length },
  };
}

function vectorsOf(images: readonly TapStatistics[], tap: string, what: string, length: number): Float32Array[] {
  return images.map((image, i) => {
    const vector = image[tap];
    const argument = `${what}[${i}] of fitShift`;
    if (!(vector instanceof Float32Array) || vector.length !== length || length === 0 || length % 2 > 0)
      fail("ERR_LE_SHAPE", argument, `${length} numbers of the layer ${tap}`, vector ? `${vector.length}` : "none");
    checkFinite(argument, vector as Float32Array);
    if ((vector as Float32Array).subarray(length / 2).some((deviation) => deviation < 0))
      fail(
        "ERR_LE_VALUE",
        argument,
        `standard deviations of at least 0 in the second half, of the layer ${tap},`,
        "less",
      );
    return vector as Float32Array;
  });
}

function chosenOf(taps: readonly string[], wanted: NonNullable<ShiftOptions["taps"]>): readonly string[] {
  if (wanted === "all") return taps;
  if (wanted === "early") return taps.slice(0, Math.ceil(taps.length / 10));
  const unknown = wanted.find((tap) => !taps.includes(tap));
  if (unknown !== undefined)
    fail("ERR_LE_OPTION", "option 'taps' of fitShift", `layers among ${taps.join(", ")}`, unknown);
  return taps.filter((tap) => wanted.includes(tap));
}
