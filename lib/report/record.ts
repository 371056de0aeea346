import type { NdArray } from "../arrays.js";
import type { Prediction } from "../ensemble/prediction.js";
import type { MapName } from "../uncertainty/index.js";

/** What a prediction says in numbers, as plain JSON. */
export type PredictionRecord = ReturnType<typeof predictionRecord>;

/** A mask's shape, H×W or D×H×W, and its pixels by class. */
export interface Extent {
  shape: readonly number[];
  areas: number[];
}

/** Counts the pixels of each class. */
export function extentOf({ data, shape }: NdArray<Uint8Array>, classes: number): Extent {
  const areas = new Array<number>(classes).fill(0);
  for (const label of data) areas[label] = (areas[label] ?? 0) + 1;
  return { shape, areas };
}

/**
 * A prediction's numbers as plain JSON, classes by name.
 * @param extent Of the mask at the stored image's size.
 */
export function predictionRecord(
  prediction: Omit<Prediction, "mask" | "maps">,
  { shape, areas }: Extent,
  classNames: readonly string[],
) {
  const byName = <T>(perClass: Readonly<Record<number, T>>) =>
    Object.fromEntries(Object.entries(perClass).map(([c, value]) => [classNames[Number(c)] ?? c, value]));
  const { aula, pairwiseAgreement, predictionDepth, softDiceConfidence } = prediction;
  return {
    ...(shape.length === 3 && { depth: shape[0] }),
    height: shape.at(-2),
    width: shape.at(-1),
    area: byName(Object.fromEntries(areas.entries())),
    heads: prediction.heads,
    aula: aula && {
      value: aula.value,
      normalised: aula.normalised,
      perClass: byName(aula.perClass),
      agreements: byName(aula.agreements),
      empty: aula.empty,
    },
    pairwiseAgreement: { overall: pairwiseAgreement.overall, perClass: byName(pairwiseAgreement.perClass) },
    predictionDepth: predictionDepth && { mean: predictionDepth.mean, perClass: byName(predictionDepth.perClass) },
    softDiceConfidence: { overall: softDiceConfidence.overall, perClass: byName(softDiceConfidence.perClass) },
    summaries: prediction.summaries,
  };
}

/** The largest value that a map can have, which gets the last colour of a heat map, so that pictures can be compared. */
export function largestValue(map: MapName, classes: number): number {
  if (map === "variance") return 0.25;
  return map === "disagreement" || map === "variationRatio" ? 1 : Math.log(classes);
}

/** The middle slice of a volume, H×W. */
export function middleSlice({ data, shape }: NdArray<Uint8Array>): NdArray<Uint8Array> {
  const [depth, height, width] = shape as [number, number, number];
  const start = (depth >> 1) * height * width;
  return { data: data.subarray(start, start + height * width), shape: [height, width] };
}
