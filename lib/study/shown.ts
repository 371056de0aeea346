// Which images a report shows, and what of them.
import type { NdArray } from "../arrays.js";
import type { Result } from "../inference/inference.js";
import type { ImageRecord, RunRecord, ShownImage } from "../results/comparison.js";
import { METHODS, type MethodName } from "../runs/methods.js";
import { type ImageScoreName, suited } from "../scores/scores.js";
import { imageMeans } from "./statistics.js";

/** An image, and why it is shown. */
export type Choice = Pick<ShownImage, "id" | "why" | "dice" | "aula" | "agreements">;

/**
 * The best, worst and median image by Dice and those of most and least certain agreement, by the mean over the runs of LE (or
 * of the first method, where there is no LE): AULA, else pairwise agreement, else soft Dice confidence. An image where
 * nothing is and nothing was found shows nothing, and is passed over where there are others; as most certain also one where no
 * head found anything, which makes AULA full by definition.
 */
export function chooseShown(runs: readonly RunRecord[]): Choice[] {
  const leader = runs.some(({ method }) => method === "le")
    ? "le"
    : METHODS.find((name) => runs.some(({ method }) => method === name));
  const own = runs.filter(({ method }) => method === leader).map(byId);
  const images = (own[0] as ImageRecord[]).map(({ id }, i) => {
    const mean = (of: readonly ImageRecord[][], pick: (image: ImageRecord) => number | null) =>
      imageMeans(of.map((record) => Float64Array.of(pick(record[i] as ImageRecord) ?? Number.NaN)))[0] as number;
    const certainty = suited((name) => {
      const value = mean(own, (image) => (name in image ? image[name as ImageScoreName] : null));
      return Number.isNaN(value) ? null : value;
    });
    const empty = own.every((record) => record[i]?.empty);
    const dice = mean(own, (image) => image.dice);
    return { id, i, dice, certainty: certainty?.value ?? Number.NaN, empty, blank: empty && dice === 1 };
  });
  const visible = orAll(
    orAll(images, ({ dice }) => !Number.isNaN(dice)),
    ({ blank }) => !blank,
  );
  const byDice = [...visible].sort((a, b) => b.dice - a.dice);
  const certain = orAll(visible, ({ certainty }) => !Number.isNaN(certainty));
  const byCertainty = [...certain].sort((a, b) => b.certainty - a.certainty);
  const chosen: [ShownImage["why"][number], (typeof images)[number]][] = [
    ["best", byDice[0] as (typeof images)[number]],
    ["median", byDice[(byDice.length - 1) >> 1] as (typeof images)[number]],
    ["worst", byDice.at(-1) as (typeof images)[number]],
    ["most certain", orAll(byCertainty, ({ empty }) => !empty)[0] as (typeof images)[number]],
    ["least certain", byCertainty.at(-1) as (typeof images)[number]],
  ];
  const leading = own[0] as ImageRecord[];
  const shown = new Map<string, Choice>();
  for (const [why, { id, i }] of chosen) {
    const there = shown.get(id);
    if (there) there.why.push(why);
    else
      shown.set(id, {
        id,
        why: [why],
        dice: diceOf(runs, i),
        aula: leading[i]?.aula ?? null,
        agreements: leading[i]?.agreements ?? null,
      });
  }
  return [...shown.values()];
}

/** Those that fulfil a condition, or all where none does. */
function orAll<T>(items: readonly T[], condition: (item: T) => boolean): readonly T[] {
  const some = items.filter(condition);
  return some.length > 0 ? some : items;
}

const byId = ({ images }: RunRecord) => [...images].sort((a, b) => (a.id < b.id ? -1 : 1));

/** Of each method's first run. */
function diceOf(runs: readonly RunRecord[], i: number): Record<string, number | null> {
  const dice: Record<string, number | null> = {};
  for (const run of runs) dice[run.method] ??= byId(run)[i]?.dice ?? null;
  return dice;
}

/** Gathers the pictures of one image from each method's prediction of it. */
export function showImage(choice: Choice, results: ReadonlyMap<MethodName, Result>): ShownImage {
  const [first] = results.values();
  if (!first?.truth) throw new Error("unreachable: shown images were evaluated");
  const image = plane(first.image);
  const [height, width] = image.shape as [number, number];
  const le = results.get("le");
  const labels = le?.labels;
  const heads =
    le && labels ? le.prediction.heads.map((name, k) => ({ name, mask: base64(plane(headOf(labels, k)).data) })) : [];
  const each = (pick: (result: Result) => string | undefined) =>
    Object.fromEntries(
      [...results].flatMap(([method, result]) => {
        const picture = pick(result);
        return picture === undefined ? [] : [[method, picture]];
      }),
    );
  return {
    ...choice,
    height,
    width,
    image: base64(image.data),
    truth: base64(plane(first.truth).data),
    masks: each(({ mask }) => base64(plane(mask).data)),
    heads,
    entropy: each(({ maps }) => maps.entropy && base64(plane(maps.entropy).data)),
  };
}

function headOf({ data, shape }: NdArray<Uint8Array>, k: number): NdArray<Uint8Array> {
  const spatial = shape.slice(1);
  const pixels = spatial.reduce((product, side) => product * side, 1);
  return { data: data.subarray(k * pixels, (k + 1) * pixels), shape: spatial };
}

/** The array itself, or the middle slice of a volume. */
function plane<T extends Uint8Array | Float32Array>({ data, shape }: NdArray<T>): NdArray<T> {
  if (shape.length === 2) return { data, shape };
  const [depth, height, width] = shape as [number, number, number];
  const start = (depth >> 1) * height * width;
  return { data: data.subarray(start, start + height * width) as T, shape: [height, width] };
}

/** Its bytes, which are little-endian on every machine that libtorch runs on. */
function base64({ buffer, byteOffset, byteLength }: Uint8Array | Float32Array): string {
  return Buffer.from(buffer, byteOffset, byteLength).toString("base64");
}
