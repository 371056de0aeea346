// `evaluate --lesions`: each part with its scores, and what all come to.
import { describe, expect, it } from "vitest";
import { parseCsv } from "../../lib/data/csv.js";
import type { Result } from "../../lib/inference/inference.js";
import { type NdArray, scoreHeads } from "../../lib/metrics/index.js";
import { imageLesions, lesionsCsv, summariseLesions } from "../../lib/study/lesions.js";
import type { Scoring } from "../../lib/study/records.js";
import { describeLesions } from "../../lib/study/tables.js";
import { bytes } from "./support/heads.js";

const scoring: Scoring = { classes: 2, scored: [1], ignoreIndex: 255 };
const shape = [3, 12];
const row = (text: string) => [...text.padEnd(12, ".")].map((one) => (one === "#" ? 1 : one === "x" ? 255 : 0));
const image = (first: string, second: string, third = "") => bytes([first, second, third].flatMap(row), shape);

const PLACEMENT: Result["placement"] = {
  ...{ original: [3, 12], size: [3, 12] },
  content: { top: 0, left: 0, height: 3, width: 12 },
};

/** What `infer` gives of heads that say just these masks. */
function resultOf(id: string, truth: NdArray<Uint8Array>, heads: readonly NdArray<Uint8Array>[]): Result {
  const logits = heads.flatMap(({ data }) =>
    [...data].map((one) => (one ? -3 : 3)).concat([...data].map((one) => (one ? 3 : -3))),
  );
  const of = scoreHeads({ data: Float32Array.from(logits), shape: [heads.length, 2, ...shape] });
  return {
    ...{
      id,
      truth,
      mask: of.mask,
      labels: of.labels,
      maps: {},
      cropped: 0,
      placement: PLACEMENT,
      prediction: {} as Result["prediction"],
    },
    image: { data: new Uint8Array(36), shape },
    probabilities: { data: Float32Array.from(of.probabilities.data), shape: of.probabilities.shape },
  };
}

// Heads agree on the left part, which is true, and differ on the right one, which is not. The truth below is missed.
const all = image("###......##", "###......##");
const some = image("###......#.", "###........");
const truth = image("##x.....", "##......", "...###....x.");
const one = imageLesions(resultOf("one", truth, [some, all, all, all]), { ...scoring, spacing: [2, 0.5] }, true);
const blank = imageLesions(resultOf("blank", bytes(new Array(36).fill(255), shape), [all, all, all]), scoring, true);
const two = imageLesions(resultOf("two", all, [all, all, all]), { ...scoring, spacing: [2, 0.5] }, true);
const evaluated = {
  classNames: ["background", "lesion"],
  scored: [1],
  heads: [],
  units: { length: "mm", size: "mm²" },
} as const;

describe("the lesions of an image", () => {
  it("are the predicted parts with their scores, and those that are missed", () => {
    const [left, right, missed] = one.records;
    // Of six predicted pixels on the left one does not count, and the truth has four.
    expect(left).toMatchObject({
      is: "true",
      voxels: 5,
      volume: 5,
      covered: 0.8,
      aulaNormalised: 1,
      class: 1,
      id: "one",
    });
    expect(right).toMatchObject({ is: "false", voxels: 4, volume: 4, covered: 0 });
    // Three heads of four say all four pixels, the first one alone: a_1 = 2·1/(1+4), then 1 and 1.
    expect(right?.aula).toBeCloseTo((0.4 + 1) / 2 + 1, 12);
    expect(right?.pairwiseAgreement).toBeCloseTo((3 * 0.4 + 3) / 6, 12);
    expect(missed).toMatchObject({
      is: "missed",
      voxels: 3,
      volume: 3,
      covered: 0,
      aula: null,
      softDiceConfidence: null,
    });
    expect([one.records.length, one.truth.get(1)]).toEqual([3, { lesions: 2, found: 1 }]);
  });

  it("are by the share that is asked for", () => {
    const strict = imageLesions(resultOf("one", truth, [all, all, all]), { ...scoring, lesionOverlap: 0.9 }, true);
    expect(strict.records.map(({ is }) => is)).toEqual(["false", "false", "missed"]);
    expect(strict.truth.get(1)).toEqual({ lesions: 2, found: 1 });
  });

  it("touch at corners where that is asked for", () => {
    const corner = image("##", "..##");
    const of = (neighbours: "face" | "all") =>
      imageLesions(resultOf("one", corner, [corner, corner, corner]), { ...scoring, neighbours }, true);
    expect([of("face").records.length, of("all").records.length]).toEqual([2, 1]);
    expect(of("all").truth.get(1)).toEqual({ lesions: 1, found: 1 });
  });

  it("have no AULA where heads have no order, and are unknown where no pixel counts", () => {
    const unordered = imageLesions(resultOf("one", truth, [some, all, all]), scoring, false);
    expect(unordered.records[0]).toMatchObject({ aula: null, aulaNormalised: null });
    expect(unordered.records[0]?.pairwiseAgreement).toBe(1);
    expect(blank).toEqual({ records: [], truth: new Map() });
  });
});

describe("the lesions of all images", () => {
  it("are summed over the images with a pixel that counts", () => {
    const { lesion } = summariseLesions([one, blank, two], evaluated);
    expect(lesion).toMatchObject({
      cases: 2,
      lesions: 4,
      found: 3,
      sensitivity: 0.75,
      falsePositives: 1,
      falsePositivesPerCase: 0.5,
    });
    expect(lesion?.auroc).toEqual({ aulaNormalised: 1, pairwiseAgreement: 1, softDiceConfidence: 1 });
    const none = summariseLesions([blank], evaluated).lesion;
    expect(none).toMatchObject({ cases: 0, sensitivity: null, falsePositivesPerCase: null });
    expect(Object.values(none?.auroc ?? {})).toEqual([null, null, null]);
    expect(describeLesions({ lesion: lesion as never }, {})).toMatch(/^lesion +4 +3 +0\.750 +1 +0\.50 +1\.000/m);
  });

  it("are in a file, each with the unit of its size", () => {
    const { rows } = parseCsv(lesionsCsv([one, two], evaluated), "lesions.csv");
    expect(rows.map(({ id, is }) => [id, is])).toEqual([
      ["one", "true"],
      ["one", "false"],
      ["one", "missed"],
      ["two", "true"],
      ["two", "true"],
    ]);
    expect(rows[0]).toMatchObject({
      class: "lesion",
      sizes: "mm²",
      voxels: "5",
      volume: "5",
      covered: "0.8",
      aula_normalised: "1",
    });
    expect(rows[2]).toMatchObject({ aula: "", pairwise_agreement: "" });
  });
});
