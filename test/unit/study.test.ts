// The parts of a comparison beside its statistics: what is scored, chosen, shown, tabulated and refused.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { conditions } from "../../lib/cli/scoring-options.js";
import { parseCsv } from "../../lib/data/csv.js";
import { defaultPreprocessing, place } from "../../lib/data/preprocess.js";
import type { VolumePlacement } from "../../lib/data/volume.js";
import type { Grid } from "../../lib/grid/index.js";
import type { Item, Result } from "../../lib/inference/inference.js";
import { bootstrap, calibration, type NdArray, quality, scoreHeads } from "../../lib/metrics/index.js";
import { Random } from "../../lib/random.js";
import type { Comparison, ImageRecord, RunRecord, ShiftRow } from "../../lib/results/comparison.js";
import { csvTables, describeComparison } from "../../lib/results/files.js";
import { fixed } from "../../lib/results/format.js";
import { aggregate } from "../../lib/study/aggregate.js";
import { pooledCalibration } from "../../lib/study/evaluate.js";
import {
  commonUnits,
  type ImageScore,
  recordOf,
  type Scoring,
  scoredClasses,
  scoreImage,
} from "../../lib/study/records.js";
import { checkComparable, type RunFacts, runFacts } from "../../lib/study/runs.js";
import { selectItems, tableOf } from "../../lib/study/selection.js";
import { shiftRows } from "../../lib/study/shift.js";
import { chooseShown, showImage } from "../../lib/study/shown.js";
import { type Summary, summarise } from "../../lib/study/summary.js";
import { describeImages, describeSummary, evaluationTables } from "../../lib/study/tables.js";
import { madeRun, SETTINGS } from "./support/study.js";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "layer-ensembles-study-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What `infer` gives of an image, from random heads. */
function madeResult(seed: number, { classes = 4, size = 8, heads = 4 } = {}): Result & { truth: NdArray<Uint8Array> } {
  const random = new Random(seed);
  const shape = [size, size];
  const pixels = size * size;
  const logits = Float32Array.from({ length: heads * classes * pixels }, () => random.normal() * 2);
  const truth = {
    data: Uint8Array.from({ length: pixels }, () => (random.uniform() < 0.1 ? 255 : random.integer(classes))),
    shape,
  };
  const of = scoreHeads({ data: logits, shape: [heads, classes, ...shape] });
  const { data } = of.probabilities;
  const probabilities = { data: Float32Array.from(data), shape: of.probabilities.shape };
  return {
    id: "one",
    group: "patient",
    image: { data: new Uint8Array(pixels).fill(seed), shape },
    truth,
    probabilities,
    placement: place([size, size], defaultPreprocessing),
    mask: of.mask,
    maps: { entropy: of.maps.entropy as NdArray },
    labels: of.labels,
    cropped: 0,
    prediction: {
      mask: of.mask,
      maps: {},
      summaries: of.summaries,
      empty: of.empty,
      aula: of.aula,
      pairwiseAgreement: of.pairwiseAgreement,
      predictionDepth: of.predictionDepth,
      softDiceConfidence: of.softDiceConfidence,
      heads: ["a", "b", "c", "d"].slice(0, heads),
    },
  };
}

const scoring: Scoring = { classes: 4, scored: [1, 2, 3], ignoreIndex: 255 };

describe("the score of an image", () => {
  it("has the values of the metrics, per class and as means", () => {
    const result = madeResult(1);
    const { mask, truth, probabilities } = result;
    const score = scoreImage(result, { ...scoring, spacing: [2, 0.5] });
    const expected = quality(mask, truth, { classes: 4, spacing: [2, 0.5] });
    expect(score.quality).toEqual(expected);
    expect(score).toMatchObject({ id: "one", group: "patient", dice: expected.image.dice, hd95: expected.image.hd95 });
    expect(score.classMhd).toEqual([1, 2, 3].map((c) => expected.perClass[c]?.modifiedHausdorff));
    expect(score.nll).toBe(calibration(probabilities, truth).nll);
    expect(score.headDice).toHaveLength(4);
    const record = recordOf(score);
    expect(JSON.parse(JSON.stringify(record))).toEqual(record);
    expect(Object.keys(record)).not.toContain("quality");
  });

  it("is in millimetres where the volume, or an option, says how far voxels are apart", () => {
    const { truth, mask, probabilities, labels, ...flat } = madeResult(4, { size: 8 });
    const deep = <T extends { shape: readonly number[] }>(array: T): T => {
      const [height, width] = array.shape.slice(-2) as [number, number];
      return { ...array, shape: [...array.shape.slice(0, -2), 2, height / 2, width] };
    };
    const volume = { ...flat, truth: deep(truth), mask: deep(mask), probabilities: deep(probabilities) };
    const affine = (shear: number) =>
      [
        [-0.5, shear, 0, 3],
        [0, 0.75, 0, 4],
        [0, 0, 4, 5],
        [0, 0, 0, 1],
      ] as const;
    const shape = [2, 4, 8] as const;
    const at = (stored: Grid | null): { placement: VolumePlacement } => ({
      placement: {
        ...{ original: shape, size: shape, content: shape },
        stored,
        grid: { shape, affine: affine(0) },
        steps: [],
      },
    });
    const placed = scoreImage({ ...volume, ...at({ shape, affine: affine(0) }) }, scoring);
    const expected = quality(volume.mask, volume.truth, { classes: 4, spacing: [4, 0.75, 0.5] });
    expect(placed.quality).toEqual(expected);
    expect(placed.units).toEqual({ length: "mm", size: "ml", tolerance: 1 });
    const lost = scoreImage({ ...volume, ...at(null) }, { ...scoring, tolerance: 2 });
    expect(lost.quality).toEqual(quality(volume.mask, volume.truth, { classes: 4, tolerance: 2 }));
    expect(lost.units).toEqual({ length: "voxels", size: "voxels", tolerance: 2 });
    const told = scoreImage({ ...volume, ...at({ shape, affine: affine(0) }) }, { ...scoring, spacing: [1, 2, 3] });
    expect(told.quality).toEqual(quality(volume.mask, volume.truth, { classes: 4, spacing: [1, 2, 3] }));
    const sheared = { ...volume, ...at({ shape, affine: affine(0.1) }) };
    expect(() => scoreImage(sheared, scoring)).toThrow(
      /at right angles.*for one but received axes up to 7\.59 degrees off/,
    );
    expect(scoreImage(sheared, { ...scoring, spacing: [4, 0.75, 0.5] }).quality).toEqual(expected);
    expect(commonUnits([placed, told])).toEqual(placed.units);
    expect(() => commonUnits([placed, { ...lost, id: "two" }])).toThrow(
      /received one \(lengths in mm.*two \(voxels.*--spacing/,
    );
  });

  it("counts classes that are not scored as background, in truth, prediction and probabilities", () => {
    const result = madeResult(2);
    const { mask, truth, probabilities } = result;
    const score = scoreImage(result, { ...scoring, scored: [2, 3] });
    // The same by relabelling to three classes: 2 and 3 become 1 and 2.
    const become = (label: number) => (label === 255 ? 255 : Math.max(0, label - 1));
    const relabel = ({ data, shape }: NdArray<Uint8Array>) => ({ data: data.map(become), shape });
    const pixels = 64;
    const merged = Float32Array.from({ length: 3 * pixels }, (_, at) =>
      at < pixels
        ? (probabilities.data[at] as number) + (probabilities.data[at + pixels] as number)
        : (probabilities.data[at + pixels] as number),
    );
    const expected = quality(relabel(mask), relabel(truth), { classes: 3 });
    const of = calibration({ data: merged, shape: [3, 8, 8] }, relabel(truth));
    expect(score.dice).toBeCloseTo(expected.image.dice, 12);
    expect(score.mhd).toBeCloseTo(expected.image.modifiedHausdorff, 12);
    expect(score.classDice).toEqual([expected.perClass[1]?.dice, expected.perClass[2]?.dice]);
    for (const name of ["nll", "brier", "ece"] as const) expect(score[name]).toBeCloseTo(of[name], 6);
    expect(score.aula).toBe(scoreImage(result, scoring).aula);
  });

  it("has the curve that AULA is the area under", () => {
    const result = madeResult(3);
    const le = scoreImage(result, scoring);
    expect(le.aula).toBe(result.prediction.aula?.value);
    // The area under the curve is AULA: it averages the same classes.
    const curve = le.agreements as number[];
    expect(curve.slice(1).reduce((sum, a, j) => sum + (a + (curve[j] as number)) / 2, 0)).toBeCloseTo(
      le.aula as number,
      12,
    );
    const one = scoreImage(madeResult(3, { heads: 1 }), scoring);
    expect(one).toMatchObject({ aula: null, pairwiseAgreement: null, empty: false });
  });

  it("refuses a class that is none", () => {
    expect(scoredClasses(undefined, ["background", "a", "b"])).toEqual([1, 2]);
    expect(scoredClasses([2, 1, 2], ["background", "a", "b"])).toEqual([1, 2]);
    expect(() => scoredClasses([3], ["background", "a", "b"])).toThrow(
      "Expected foreground classes from 1 to 2 (a, b) to score but received 3.",
    );
  });
});

describe("an evaluation", () => {
  const scores = [0, 1, 2, 3, 4, 5].map((i) => {
    const score = scoreImage(madeResult(10 + i), scoring);
    return { ...score, id: `image${i}`, group: `patient${i >> 1}` };
  });
  const options = {
    classNames: ["background", "RV", "myo", "LV"],
    scored: [1, 2, 3],
    heads: ["a", "b", "c", "d"],
    units: commonUnits(scores),
    resamples: 50,
  };

  it("leaves out an image of which no pixel counts, and says so", () => {
    const result = madeResult(16);
    const blank = { ...result, truth: { data: result.mask.data.map(() => 255), shape: result.mask.shape } };
    const unlabelled = { ...scoreImage(blank, scoring), id: "image6", group: "patient3" };
    expect(unlabelled).toMatchObject({ dice: null, hd95: null, nll: null, ignored: result.mask.data.length });
    expect([...unlabelled.headDice, unlabelled.quality.image.dice].every(Number.isNaN)).toBe(true);
    const made = { ...options, unit: "image" } as const;
    const [without, withIt] = [scores, [...scores, unlabelled]].map((images) => summarise(images, made));
    expect(withIt).toMatchObject({ images: 7, withDice: 6, failed: without?.failed, tau: without?.tau });
    expect(withIt?.ignored.unlabelled).toBe(1);
    expect(withIt?.means.dice).toMatchObject({ mean: without?.means.dice.mean, n: 6, leftOut: 1 });
    for (const [name, of] of Object.entries(withIt?.spearmanWithDice ?? {}))
      expect(of.rho, name).toEqual(without?.spearmanWithDice[name]?.rho);
    for (const [name, of] of Object.entries(withIt?.failureDetection ?? {}))
      for (const [statistic, { value }] of Object.entries(of)) {
        const known = without?.failureDetection[name]?.[statistic as keyof typeof of].value;
        if (typeof known === "number") expect(value, `${statistic} by ${name}`).toBeCloseTo(known, 12);
        else expect(value, `${statistic} by ${name}`).toBeNull();
      }
  });

  it("has means per image, class, group and head", () => {
    const summary = summarise(scores, options);
    const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
    expect(summary.means.dice.mean).toBeCloseTo(mean(scores.map(({ dice }) => dice as number)), 12);
    expect(summary.classes.myo?.hd95.mean).toBeCloseTo(
      mean(scores.map((of) => of.quality.perClass[2]?.hd95 as number)),
      12,
    );
    expect(summary.groups.patient1?.dice).toBeCloseTo(mean([scores[2]?.dice as number, scores[3]?.dice as number]), 12);
    expect(summary.groups.patient1?.images).toBe(2);
    expect(Object.keys(summary.headDice)).toEqual(["a", "b", "c", "d"]);
    expect(summary.bootstrap.unit).toBe("group");
    expect(summary.spearmanWithDice["entropy.sum"]?.n).toBe(6);
    const said = describeSummary(summary);
    expect(said).toMatch(/^MHD \(px\) /m);
    expect(said).toMatch(/^surface Dice \(1 px\) /m);
    const inMm = { ...summary, units: { length: "mm", size: "ml", tolerance: 2 } } as const;
    for (const name of ["HD95 (mm) ", "volume (ml) ", "surface Dice (2 mm) ", "HD95 (mm) of myo "])
      expect(describeSummary(inMm)).toContain(`\n${name}`);
    const { low, high, mean: dice, sd } = (summary.classes.myo as Summary["classes"][string]).dice;
    const cells = [fixed(dice), fixed(sd), `[${fixed(low)}, ${fixed(high)}]`, "6"];
    expect(/^Dice of myo (.*)$/m.exec(said)?.[1]?.trim().split(/ {2,}/)).toEqual(cells);
    expect(said).toMatch(new RegExp(`^ECE of all pixels +${fixed(summary.calibration.ece, 4)} `, "m"));
    expect(said).toMatch(/^patient\d +2 /m);
    expect(describeImages([{ ...(scores[0] as ImageScore), empty: true }], options)).toMatch(/\d\.\d{3} \(empty\) /);
  });

  it.each([
    ["usual names", ["RV", "myo", "LV"], ["a", "b", "c", "d"]],
    ["names of measures", ["boundary", "mean", "dice"], ["mean", "ece", "dice", "pooled ece"]],
    ["names of columns", ["head a", "head_b", "pooled_ece"], ["a", "b", "ece", "head a"]],
  ])("has of every printed mean the interval of that very column: %s", (_, names, heads) => {
    const made = { ...options, classNames: ["background", ...names], heads };
    const tables = evaluationTables(scores, summarise(scores, made), made);
    const images = parseCsv(tables["images.csv"] as string, "images.csv");
    const { rows } = parseCsv(tables["summary.csv"] as string, "summary.csv");
    const printed = rows.filter(({ quantity }) => !quantity?.startsWith("pooled_"));
    // As many means as columns, in the same order, so that none is matched by its name.
    const measures = printed.filter(({ of }) => of === "").length;
    const ofClasses = printed.length - measures - heads.length;
    const columns = [
      ...images.columns.slice(4, 4 + measures + ofClasses),
      ...images.columns.slice(images.columns.length - heads.length),
    ];
    expect(columns).toHaveLength(printed.length);
    const resampling = { resamples: 50, groups: scores.map(({ group }) => group as string) };
    const value = (text: string | undefined) => (text === "" || text === undefined ? Number.NaN : Number(text));
    printed.forEach((row, at) => {
      const values = images.rows.map((image) => value(image[columns[at] as string]));
      const mean = (drawn: Uint32Array) => {
        const defined = [...drawn].map((i) => values[i] as number).filter((one) => !Number.isNaN(one));
        return defined.reduce((sum, one) => sum + one, 0) / defined.length;
      };
      const expected = bootstrap(images.rows.length, mean, resampling);
      const what = `${row.quantity} of ${row.of}, column ${columns[at]}`;
      expect(columns[at]?.startsWith(row.quantity as string), what).toBe(true);
      for (const [name, wanted] of [
        ["mean", expected.estimate],
        ["low", expected.low],
        ["high", expected.high],
      ] as const) {
        if (Number.isNaN(wanted)) expect(row[name], `${what}, ${name}`).toBe("");
        else expect(value(row[name]), `${what}, ${name}`).toBeCloseTo(wanted, 10);
      }
      if (row.low !== "") {
        expect(value(row.mean), what).toBeGreaterThanOrEqual(Math.min(...values.filter((one) => !Number.isNaN(one))));
        expect(value(row.low), what).toBeLessThanOrEqual(value(row.high));
      }
    });
    expect(new Set(rows.map(({ quantity, of }) => `${quantity}|${of}`)).size).toBe(rows.length);
  });

  it("keeps what is over all pixels apart from the means of images", () => {
    const summary = summarise(scores, options);
    const pooled = (images: Uint32Array) =>
      pooledCalibration([...images].map((i) => (scores[i] as (typeof scores)[number]).calibration));
    for (const name of ["ece", "brier", "nll"] as const) {
      const expected = bootstrap(scores.length, (images) => pooled(images)[name] as number, {
        resamples: 50,
        groups: scores.map(({ group }) => group as string),
      });
      expect(summary.calibration[name]).toBeCloseTo(expected.estimate, 12);
      expect(summary.calibration[`${name}Low`]).toBeCloseTo(expected.low, 12);
      expect(summary.calibration[`${name}High`]).toBeCloseTo(expected.high, 12);
    }
    expect(summary.means.ece.low).not.toBeCloseTo(summary.calibration.eceLow as number, 6);
  });

  it("does not depend on the order of the images", () => {
    expect(summarise([...scores].reverse(), options)).toEqual(summarise(scores, options));
  });

  it("takes tau from the images where asked to", () => {
    const summary = summarise(scores, { ...options, tau: "auto" });
    expect(summary.failed).toBe(1);
    expect(summary.tau).toBe(scores.map(({ dice }) => dice as number).sort((a, b) => a - b)[1]);
  });
});

describe("the images that count", () => {
  const items = ["a", "b", "c", "d"].map(
    (id): Item => ({ id, group: "old", load: () => Promise.reject(new Error("unused")) }),
  );
  const data = () => {
    const at = path.join(folder, "data");
    mkdirSync(at, { recursive: true });
    writeFileSync(
      path.join(at, "split.csv"),
      "id,split,group,phase,patient\na,test,g,ED,p1\nb,ood,g,ES,p1\nc,ood,g,ED,p2\nd,test,g,ED,\n",
    );
    return at;
  };
  const where = (...texts: string[]) =>
    texts.reduce((before, text) => conditions(text, before), conditions(texts[0] as string).slice(1));

  it("fulfil every condition", async () => {
    const ids = async (...texts: string[]) =>
      (await selectItems(items, data(), { where: where(...texts) })).map(({ id }) => id);
    expect(await ids("phase=ED")).toEqual(["a", "c", "d"]);
    expect(await ids("phase!=ED")).toEqual(["b"]);
    expect(await ids("phase = ED", "patient!=")).toEqual(["a", "c"]);
    expect((await selectItems(items, data(), { where: [] })).map(({ id }) => id)).toEqual(["a", "b", "c", "d"]);
  });

  it("take their group from the column asked for; an empty one is none", async () => {
    const chosen = await selectItems(items, data(), { where: [], group: "patient" });
    expect(chosen.map(({ group }) => group)).toEqual(["p1", "p1", "p2", undefined]);
  });

  it("are an error where there are none, or the column is not there", async () => {
    await expect(selectItems(items, data(), { where: where("phase=MD") })).rejects.toThrow(
      /Expected at least one image with phase=MD in .* but received none among 4\./,
    );
    await expect(selectItems(items, data(), { where: where("fase=ED") })).rejects.toThrow(/Did you mean phase\?/);
    await expect(selectItems(items, folder, { where: where("phase=ED") })).rejects.toThrow(/received no split\.csv/);
    expect(() => conditions("phase")).toThrow("Expected column=value");
  });

  it("belong to the splits of the table", async () => {
    expect(await tableOf(data())).toEqual({
      columns: ["id", "split", "group", "phase", "patient"],
      splits: ["test", "ood"],
    });
    expect(await tableOf(folder)).toEqual({ columns: [], splits: [] });
  });
});

describe("runs to compare", () => {
  const facts = (change: Partial<RunFacts> & { names?: string[]; ignoreIndex?: number } = {}): RunFacts => ({
    folder: change.folder ?? "runs/a",
    run: {} as RunFacts["run"],
    method: change.method ?? "le",
    seed: change.seed ?? 0,
    notes: { classNames: change.names ?? ["bg", "x"], ignoreIndex: change.ignoreIndex ?? 255 } as RunFacts["notes"],
  });

  it("must agree in classes, and differ in method or seed", () => {
    expect(() => checkComparable([facts(), facts({ seed: 1 }), facts({ method: "de" })])).not.toThrow();
    const refused = (...runs: RunFacts[]) => expect(() => checkComparable(runs));
    refused(facts(), facts({ folder: "runs/b", seed: 1, names: ["bg", "y"] })).toThrow(
      "Expected the classes bg, x, as in runs/a, for the run in runs/b but received bg, y.",
    );
    refused(facts(), facts({ folder: "runs/b", seed: 1, ignoreIndex: 7 })).toThrow(/255 as ignored label.*received 7/);
    refused(facts(), facts({ folder: "runs/b" })).toThrow(/runs\/a and runs\/b, both of method le with seed 0/);
  });

  const write = (name: string, run: object) => {
    const at = path.join(folder, name);
    mkdirSync(at, { recursive: true });
    writeFileSync(path.join(at, "run.json"), JSON.stringify(run));
    return at;
  };
  const run = (options: object, method?: string) => ({
    format: 1,
    ...(method && { method }),
    backbone: {},
    ensemble: { taps: [], classes: 2, final: true, dropout: 0, freezeBackbone: false, inputSize: [32, 32], seed: 4 },
    notes: {
      preprocessing: { size: null, resize: "stretch", normalise: { kind: "none" }, channels: 1 },
      classNames: ["bg", "x"],
      ignoreIndex: 255,
      data: { folder: "data", trainSplit: "train", valSplit: null, drawn: null },
      options,
    },
  });

  it("say their method and seed", async () => {
    expect(await runFacts(write("r1", run({ seed: 7 }, "de")))).toMatchObject({ method: "de", seed: 7 });
    expect(await runFacts(write("r2", run({})))).toMatchObject({ method: "le", seed: 4 });
    await expect(runFacts(write("r3", run({}, "xx")))).rejects.toThrow(/one of "plain", "mh", "de", "mcd", "le".*"xx"/);
    await expect(runFacts(folder)).rejects.toThrow(/run\.json/);
  });
});

describe("a shift", () => {
  const settings = { ...SETTINGS, flag: 0.25 };
  const withAula = (values: number[], method: "le" | "plain" = "le"): RunRecord =>
    madeRun({
      method,
      images: values.length,
      change: (_, i) => ({ aula: method === "le" ? (values[i] as number) : null, classDice: [0.5, 0.7] }),
    }).record;
  const aula = (rows: ShiftRow[]) => rows.find(({ confidence }) => confidence === "aula") as ShiftRow;

  it("is seen wholly where all shifted images are less sure", () => {
    const row = aula(shiftRows([withAula([5, 6, 7, 8])], [withAula([1, 2, 3])], settings));
    expect(row).toMatchObject({
      method: "le",
      auroc: { value: 1, low: 1, high: 1, perRun: [1] },
      thresholds: [6],
      flaggedIn: 0.25,
      flaggedOut: { value: 1, low: 1, high: 1 },
      diceIn: 0.6,
      diceOut: 0.6,
    });
  });

  it("is not seen between equal sets; ties flag fewer", () => {
    const values = [5, 6, 7, 8];
    expect(aula(shiftRows([withAula(values)], [withAula(values)], settings)).auroc.value).toBe(0.5);
    const tied = aula(shiftRows([withAula([5, 5, 5, 5])], [withAula([5, 4, 5, 5])], settings));
    expect(tied).toMatchObject({ flaggedIn: 0, flaggedOut: { value: 0.25 }, thresholds: [5] });
  });

  it("has rows of the confidences that a method has, and the mean over seeds", () => {
    const rows = shiftRows(
      [withAula([1, 2, 3, 4], "plain"), withAula([1, 2, 3, 4]), { ...withAula([4, 4, 4, 4]), seed: 1 }],
      [withAula([0], "plain"), withAula([0]), { ...withAula([5]), seed: 1 }],
      settings,
    );
    expect(rows.filter(({ method }) => method === "plain").map(({ confidence }) => confidence)).not.toContain("aula");
    expect(aula(rows)).toMatchObject({
      auroc: { value: 0.5, perRun: [1, 0] },
      flaggedOut: { value: 0.5, perRun: [1, 0] },
    });
  });

  it("does not depend on the order of the images", () => {
    const [known, other] = [madeRun({ images: 9 }).record, madeRun({ images: 7, seed: 1 }).record];
    const reversed = (of: RunRecord) => ({ ...of, images: [...of.images].reverse() });
    expect(shiftRows([reversed(known)], [reversed(other)], settings)).toEqual(shiftRows([known], [other], settings));
  });
});

describe("the images shown", () => {
  const runOf = (values: [dice: number, aula: number, empty?: boolean][], method: "le" | "plain" = "le", seed = 0) =>
    madeRun({
      method,
      seed,
      images: values.length,
      change: (_, i) => {
        const [dice, aula, empty = false] = values[i] as [number, number, boolean?];
        return { dice, aula: method === "le" ? aula : null, pairwiseAgreement: 1 - dice, empty };
      },
    }).record;
  const whys = (runs: RunRecord[]) =>
    Object.fromEntries(chooseShown(runs).map(({ id, why }) => [Number(id.slice(5)), why]));

  it("are the best, median, worst, most and least certain of LE", () => {
    const plain = runOf(
      [
        [0, 0],
        [1, 0],
        [0, 0],
        [0, 0],
        [0, 0],
      ],
      "plain",
    );
    const le = runOf([
      [0.9, 5],
      [0.1, 4],
      [0.5, 3],
      [0.7, 2],
      [0.3, 1],
    ]);
    expect(whys([plain, le])).toEqual({
      0: ["best", "most certain"],
      1: ["worst"],
      2: ["median"],
      4: ["least certain"],
    });
    expect(chooseShown([plain, le]).find(({ why }) => why.includes("worst"))?.dice).toEqual({ plain: 1, le: 0.1 });
  });

  it("are chosen by the mean over seeds, or of the first method by pairwise agreement", () => {
    const [a, b] = [
      runOf([
        [0.6, 1],
        [0.5, 2],
        [0.4, 3],
      ]),
      runOf(
        [
          [0.1, 1],
          [0.5, 2],
          [0.5, 9],
        ],
        "le",
        1,
      ),
    ];
    expect(whys([a, b])).toEqual({ 0: ["worst", "least certain"], 1: ["best"], 2: ["median", "most certain"] });
    const plain = runOf(
      [
        [0.6, 0],
        [0.2, 0],
      ],
      "plain",
    );
    expect(whys([plain])).toEqual({ 0: ["best", "median", "least certain"], 1: ["worst", "most certain"] });
  });

  it("pass over an image with nothing to see, and one that is sure by definition", () => {
    expect(
      whys([
        runOf([
          [1, 9, true],
          [0.8, 3],
          [0, 9, true],
        ]),
      ]),
    ).toEqual({
      1: ["best", "median", "most certain", "least certain"],
      2: ["worst"],
    });
    expect(whys([runOf([[1, 9, true]])])).toEqual({ 0: ["best", "median", "worst", "most certain", "least certain"] });
  });

  it("have their pictures as base64, of a volume the middle slice", () => {
    const result = madeResult(7);
    const choice = { id: "one", why: [], dice: {}, aula: null, agreements: null };
    const shown = showImage(
      choice,
      new Map([
        ["plain", result],
        ["le", result],
      ] as const),
    );
    const bytes = (text: string | undefined) => Uint8Array.from(Buffer.from(text ?? "", "base64"));
    expect(shown).toMatchObject({ height: 8, width: 8 });
    expect(bytes(shown.image)).toEqual(result.image.data);
    expect(bytes(shown.truth)).toEqual(result.truth.data);
    expect(Object.keys(shown.masks)).toEqual(["plain", "le"]);
    expect(shown.heads.map(({ name }) => name)).toEqual(["a", "b", "c", "d"]);
    expect(bytes(shown.heads[2]?.mask)).toEqual(result.labels?.data.subarray(128, 192));
    expect(new Float32Array(bytes(shown.entropy.le).buffer)).toEqual(result.maps.entropy?.data);
    const volume = (from: NdArray<Uint8Array>) => ({ data: from.data, shape: [4, 4, 4] });
    const { labels, maps, ...flat } = result;
    const deep = {
      ...flat,
      maps: {},
      image: volume(result.image),
      truth: volume(result.truth),
      mask: volume(result.mask),
    };
    const slice = showImage(choice, new Map([["plain", deep]] as const));
    expect(slice).toMatchObject({ height: 4, width: 4, heads: [], entropy: {} });
    expect(bytes(slice.truth)).toEqual(result.truth.data.subarray(32, 48));
  });
});

describe("the tables", () => {
  const runs = [madeRun({ method: "plain", heads: 1 }), madeRun({ method: "le" }), madeRun({ method: "le", seed: 1 })];
  const comparison: Comparison = {
    format: 2,
    made: {},
    title: "made up",
    data: { folder: "data", split: "test", images: 12, groups: 12 },
    ...SETTINGS,
    spacing: [1, 1],
    ...aggregate(runs, SETTINGS),
    runs: runs.map(({ record }) => record),
    shown: [],
  };

  it("hold every number of the comparison, unrounded", () => {
    const files = csvTables(comparison);
    const read = (name: string) => parseCsv(files[name] ?? "", name).rows;
    const dice = read("table1-quality.csv").find(
      (row) => row.method === "le" && row.measure === "dice" && row.class === "",
    );
    const le = comparison.methods[1];
    expect(Number(dice?.value)).toBe(le?.quality.dice.value);
    expect(Number(dice?.low)).toBe(le?.quality.dice.low);
    const ranks = read("table2-correlation.csv");
    expect(ranks.map(({ method, confidence }) => `${method} ${confidence}`)).toEqual([
      ...["softDiceConfidence", "softDiceConfidence.final", "tapDistance", "entropy"].map((name) => `plain ${name}`),
      ...[
        "aula",
        "pairwiseAgreement",
        "softDiceConfidence",
        "softDiceConfidence.final",
        "tapDistance",
        "entropy",
        "mutualInformation",
        "variance",
      ].map((name) => `le ${name}`),
    ]);
    expect(Number(read("table3-failure-detection.csv").at(-1)?.auroc)).toBe(le?.confidence.variance?.auroc.value);
    const scores = read("scores.csv").filter(({ method }) => method === "le");
    expect(scores.map(({ score, aurc }) => [score, Number(aurc)])).toEqual(
      le?.scoreRanks?.map(({ score, aurc }) => [score, aurc.value]),
    );
    expect(scores[0]).toMatchObject({ above_best: "", above_best_low: "" });
    expect(Number(scores[1]?.above_best_high)).toBe(le?.scoreRanks?.[1]?.aboveBest?.high);
    expect(read("images.csv")).toHaveLength(36);
    expect(read("images.csv")[20]).toMatchObject({ method: "le", seed: "0", id: "image008" });
    expect(read("tests.csv").map(({ measure, unit }) => `${measure} ${unit}`)).toEqual([
      "dice image",
      "mhd image",
      "nll image",
    ]);
    expect(read("calibration.csv")).toHaveLength(45);
    expect(read("cost.csv").map(({ ratio_to_plain }) => Number(ratio_to_plain))).toEqual([1, 1.5]);
    expect(Object.keys(files)).not.toContain("shift.csv");
  });

  it("name what they hold on the terminal, and the shift where there is one", () => {
    const text = describeComparison(comparison);
    for (const part of ["Table 1", "Table 2", "Table 3", "LE (2 seeds)", "LE minus", "image by image", "× Plain"])
      expect(text).toContain(part);
    expect(text).not.toContain("Shift");
    const rows = shiftRows(comparison.runs, comparison.runs, { ...SETTINGS, flag: 0.1 });
    const shift = {
      folder: "other",
      split: "ood",
      images: 12,
      imagesIn: 12,
      scored: [1, 2],
      runs: comparison.runs,
      rows,
    };
    expect(describeComparison({ ...comparison, shift })).toContain("Shift: 12 images of other (ood) against 12");
    const files = csvTables({ ...comparison, shift });
    expect(parseCsv(files["shift.csv"] ?? "", "shift.csv").rows).toHaveLength(rows.length);
    expect(parseCsv(files["images.csv"] ?? "", "images.csv").rows.filter(({ set }) => set === "out")).toHaveLength(36);
  });

  it("have a dash and an empty cell for what is not defined", () => {
    const same = [madeRun({ change: () => ({ dice: 0.5, mhd: null }) as Partial<ImageRecord> })];
    const of = { ...comparison, ...aggregate(same, SETTINGS), runs: same.map(({ record }) => record) };
    expect(describeComparison(of)).toMatch(/^LE +AULA +– +–\n/m);
    const row = parseCsv(csvTables(of)["table2-correlation.csv"] ?? "", "table").rows[0];
    expect(row).toMatchObject({ confidence: "aula", spearman_dice: "", spearman_mhd_high: "" });
  });
});
