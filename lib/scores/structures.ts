// Each connected part of a mask with scores of its own: which of several lesions a person should look at.
import { type AgreementCounts, aulaFromCounts, pairwiseAgreementFromCounts } from "../agreement/index.js";
import type { NdArray } from "../arrays.js";
import { checkFloats, checkLabels, checkSameShape, type FloatArray, fail } from "../checks.js";
import { pixelSize } from "../grid/units.js";
import { checkOptions, describe, option, type Values } from "../options.js";
import { softDiceConfidenceFromSums } from "../uncertainty/index.js";
import { type Components, connectedComponents, foreground, NEIGHBOURS, nearestComponent } from "./components.js";

/** What {@link structures} reads: of a prediction, or of the score of given heads. K heads, C classes. */
export interface StructuresInput {
  /** S: ŷ. */
  mask: NdArray<Uint8Array>;
  /** K×S: m_k, in depth order where the heads have one. */
  labels: NdArray<Uint8Array>;
  /** C×S: p̄, in [0, 1]. */
  probabilities: NdArray<FloatArray>;
  /** S: labels of the truth, where it is known, to say how much of each part it has. Of pixels that do not count any other number. */
  truth?: NdArray<Uint8Array>;
}

export const STRUCTURES = {
  /** Parts of at most so many pixels (voxels) are left out. @default 0 */
  minVoxels: option.integer({ min: 0, default: 0 }),
  /** Which pixels touch: over a face alone (4 in 2D, 6 in 3D), or at corners too (8, 26). @default "face" */
  neighbours: option.oneOf(NEIGHBOURS, { default: "face" }),
  /** Distance of neighbouring pixels along each axis in mm, positive. @default `volume` is in pixels */
  spacing: option.array(option.number({ above: 0 }), { min: 1 }),
  /** Whether the heads have an order in depth, without which there is no AULA. @default true */
  ordered: option.boolean({ default: true }),
};

/** Options of {@link structures}. */
export interface StructuresOptions extends Values<typeof STRUCTURES> {}

/** A connected part of the mask, of one class. */
export interface Structure {
  /** Its class. */
  class: number;
  /** Its pixels (voxels). */
  voxels: number;
  /** In ml of D×H×W with a spacing, in mm² of H×W with one, in pixels without. */
  volume: number;
  /** What it lies in. */
  box: {
    /** First index along each axis. */
    low: number[];
    /** Last index along each axis. */
    high: number[];
  };
  /** Mean index of its pixels along each axis. */
  centre: number[];
  /** Share of it that the truth has, in [0, 1]; where a truth is given. */
  covered?: number;
  /** AULA in its zone, in [0, K-2]; null for fewer than three heads and for heads without an order. */
  aula: number | null;
  /** AULA / (K-2), in [0, 1]. */
  aulaNormalised: number | null;
  /** Mean Dice over all pairs of heads in its zone, in [0, 1]; null for a single head. */
  pairwiseAgreement: number | null;
  /** Soft Dice of the probabilities with the mask in its zone, in [0, 1]. */
  softDiceConfidence: number;
}

/**
 * The connected parts of a mask, largest first, each with the scores of its class inside its zone: the pixels that are nearer
 * to it than to another part of its class, in steps over faces. So heads that find more than the part, or something beside it,
 * count against it, and where a class has a single part its scores are those of the class.
 * @throws ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_OPTION
 */
export function structures(input: StructuresInput, options: StructuresOptions = {}): Structure[] {
  const given = checkOptions("structures", options, STRUCTURES);
  const { minVoxels = 0, neighbours = "face", ordered = true } = given;
  const probabilities = checkFloats("probabilities", input.probabilities, 2, "C×S");
  const [classes, ...shape] = probabilities.shape as [number, ...number[]];
  if (classes < 2) fail("ERR_LE_SHAPE", "the class axis of probabilities", "at least 2 classes", `${classes}`);
  const mask = checkLabels("mask", input.mask, { classes, rank: 1, axes: "S" });
  checkSameShape("mask", mask.shape, shape);
  const labels = checkLabels("labels", input.labels, { classes, rank: 2, axes: "K×S" });
  checkSameShape("labels", labels.shape.slice(1), shape);
  const { truth } = input;
  if (truth) checkSameShape("truth", truth.shape, shape);
  const { spacing } = given;
  if (spacing && spacing.length !== shape.length)
    fail("ERR_LE_OPTION", "option 'spacing' of structures", `${shape.length} numbers, one per axis`, describe(spacing));

  const components = connectedComponents(mask.data, shape, neighbours);
  const places = placesOf(components.of, components.labels.length, shape);
  const covered = truth && coveredOf(components, truth.data);
  const kept = places.flatMap(({ voxels }, part) => (voxels > minVoxels ? [part] : []));
  const size = pixelSize(spacing);
  const found: Structure[] = [];
  for (let c = 1; c < classes; c++) {
    const parts = kept.filter((part) => components.labels[part] === c);
    if (parts.length === 0) continue;
    const zones = nearestComponent(components, c, shape);
    const sums = sumsOf(c, zones, new Set(parts), { mask: mask.data, labels, probabilities: probabilities.data });
    for (const part of parts) {
      const { counts, soft } = sums.get(part) as Sums;
      const place = places[part] as Place;
      const aula = ordered && counts.heads >= 3 ? aulaFromCounts(counts) : null;
      found.push({
        class: c,
        ...place,
        volume: place.voxels * size,
        ...(covered && { covered: (covered[part] as number) / place.voxels }),
        aula: aula && (aula.perClass[1] as number),
        aulaNormalised: aula && (aula.perClass[1] as number) / (counts.heads - 2),
        pairwiseAgreement: counts.heads < 2 ? null : (pairwiseAgreementFromCounts(counts).perClass[1] as number),
        softDiceConfidence: softDiceConfidenceFromSums([0, 0, 0, ...soft]).perClass[1] as number,
      });
    }
  }
  return found.sort((a, b) => b.voxels - a.voxels);
}

/** Where a part is. */
export type Place = Pick<Structure, "voxels" | "box" | "centre">;

/** Size, box and centre of each part. */
export function placesOf(of: Int32Array, parts: number, shape: readonly number[]): Place[] {
  const places = Array.from({ length: parts }, () => ({
    voxels: 0,
    box: { low: shape.map((length) => length), high: shape.map(() => -1) },
    centre: shape.map(() => 0),
  }));
  foreground(of, shape, (i, index) => {
    const place = places[(of[i] as number) - 1] as Place;
    place.voxels++;
    const { low, high } = place.box;
    for (const [axis, at] of index.entries()) {
      if (at < (low[axis] as number)) low[axis] = at;
      if (at > (high[axis] as number)) high[axis] = at;
      place.centre[axis]! += at;
    }
  });
  return places.map(({ centre, ...place }) => ({ ...place, centre: centre.map((sum) => sum / place.voxels) }));
}

/** How many pixels of each part the truth has. */
function coveredOf({ of, labels }: Components, truth: Uint8Array): Float64Array {
  const covered = new Float64Array(labels.length);
  for (let i = 0; i < of.length; i++) {
    const part = (of[i] as number) - 1;
    if (part >= 0 && truth[i] === labels[part]) covered[part]!++;
  }
  return covered;
}

/** Of a zone, its class as class 1 of two: counts of the heads' labels; #(ŷ=c), Σ p̄_c, Σ p̄_c [ŷ=c]. */
interface Sums {
  counts: AgreementCounts & { counts: Float64Array; intersections: Float64Array };
  soft: [number, number, number];
}

function sumsOf(
  c: number,
  zones: Int32Array,
  parts: ReadonlySet<number>,
  { mask, labels, probabilities }: { mask: Uint8Array; labels: NdArray<Uint8Array>; probabilities: FloatArray },
): Map<number, Sums> {
  const heads = labels.shape[0] as number;
  const pixels = mask.length;
  const sums = new Map<number, Sums>(
    [...parts].map((part) => [
      part,
      {
        counts: {
          ...{ heads, classes: 2 },
          counts: new Float64Array(heads * 2),
          intersections: new Float64Array(heads * heads * 2),
        },
        soft: [0, 0, 0],
      },
    ]),
  );
  const saying: number[] = [];
  for (let i = 0; i < pixels; i++) {
    const zone = sums.get((zones[i] as number) - 1);
    if (!zone) continue;
    const { counts, soft } = zone;
    const p = probabilities[c * pixels + i] as number;
    soft[1] += p;
    if (mask[i] === c) {
      soft[0]++;
      soft[2] += p;
    }
    saying.length = 0;
    for (let k = 0; k < heads; k++) if (labels.data[k * pixels + i] === c) saying.push(k);
    for (const [at, k] of saying.entries()) {
      counts.counts[k * 2 + 1]!++;
      for (let other = at; other < saying.length; other++)
        counts.intersections[(k * heads + (saying[other] as number)) * 2 + 1]!++;
    }
  }
  return sums;
}
