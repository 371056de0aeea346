import { describe, expect, it } from "vitest";
import { Dataset } from "../../lib/data/dataset.js";
import type { DatasetOptions } from "../../lib/data/dataset-options.js";
import { applyLabels, checkMasks, countLabels, decideLabels, describeIgnored } from "../../lib/data/labels.js";
import { SampleGuard } from "../../lib/ensemble/sample-guard.js";
import * as metrics from "../../lib/metrics/index.js";

const masks = (...of: readonly (readonly number[])[]) =>
  of.map((mask, i) => countLabels(`m${i}`, Uint8Array.from(mask)));
/** The rule and the classes' indices that come of some masks; or the error's text. */
function read(of: readonly (readonly number[])[], options: Parameters<typeof decideLabels>[1] = {}, classes?: number) {
  try {
    const counted = of.map((mask, i) => countLabels(`m${i}`, mask));
    const rule = decideLabels(counted, options, classes);
    checkMasks(counted, rule, classes);
    return { ...rule, labels: of.map((mask) => [...applyLabels(Float64Array.from(mask), rule)].join(" ")) };
  } catch (error) {
    return (error as Error).message;
  }
}

describe("what the numbers in masks mean", () => {
  it.each([
    ["0 and 1", [[0, 1]], undefined, { ignore: null, scale: "index", labels: ["0 1"] }],
    [
      "0 and 255",
      [
        [0, 255],
        [0, 0],
      ],
      undefined,
      { ignore: null, scale: "0/255", labels: ["0 1", "0 0"] },
    ],
    ["0 and 255 of two classes", [[0, 255]], 2, { ignore: null, scale: "0/255", labels: ["0 1"] }],
    [
      "255 beside classes",
      [
        [0, 1, 255],
        [0, 255],
      ],
      2,
      { ignore: 255, scale: "index", labels: ["0 1 255", "0 255"] },
    ],
    [
      "a mask of 255 alone beside classes",
      [
        [0, 1],
        [255, 255],
      ],
      2,
      { ignore: 255, scale: "index", labels: ["0 1", "255 255"] },
    ],
    ["nothing", [[0, 0]], undefined, { ignore: null, scale: "index", labels: ["0 0"] }],
    ["more than half of the classes", [[0, 2, 3]], undefined, { ignore: null, scale: "index", labels: ["0 2 3"] }],
  ] as const)("is plain for %s", (_, of, classes, expected) => {
    expect(read(of, {}, classes)).toEqual(expected);
  });

  it.each([
    [
      "two kinds of masks",
      [
        [0, 1],
        [0, 255],
      ],
      2,
      /one kind for the mask m0 but received 1 there but 0 and 255 in m1, .*--labels/,
    ],
    [
      "two kinds of masks of three classes",
      [
        [0, 2, 1],
        [0, 255],
      ],
      3,
      /one kind .*m0 .*m1/,
    ],
    ["255 alone", [[255], [255]], undefined, /read in one way for the mask m0 but received 255 alone/],
    ["0 and 255 for three classes", [[0, 255]], 3, /read in one way .*with 3 classes/],
    [
      "classes from 1 on",
      [
        [1, 2],
        [2, 2],
      ],
      3,
      /no 0 in any mask, as if the classes began at 1/,
    ],
    [
      "a label above the classes",
      [
        [0, 1],
        [0, 9],
      ],
      2,
      /labels below 2 \(classes\) for the mask m1 but received the label 9/,
    ],
    [
      "a label far above, of no number of classes",
      [[0, 1, 200]],
      undefined,
      /labels 0, 1, 200 alone, which would make 201 classes/,
    ],
    ["a second class without a first", [[0, 2]], undefined, /would make 3 classes/],
    [
      "soft edges",
      [[0, 0, 0, 28, 90, 255, 255, 255]],
      undefined,
      /28, 90 between them, as in a mask of 0 and 255 with soft edges/,
    ],
    ["soft edges of two classes", [[0, 0, 0, 28, 90, 255, 255, 255]], 2, /soft edges/],
    ["what JPEG makes of 0 and 255", [[0, 0, 1, 2, 253, 254, 255, 255]], 2, /soft edges/],
    ["16 bits", [[0, 65_535]], 2, /the label 65535: save masks of 0 and 65535 with 0 and 255/],
    ["a negative label", [[0, 1, -1]], 2, /the label -1: if it means "do not count", say so by .*--ignore -1/],
    ["fractions", [[0, 0.5]], 2, /whole numbers for the mask m0 but received 0.5 at position 1/],
    ["an image", [Array.from({ length: 1001 }, (_, i) => i)], 2, /an image in the place of a mask/],
  ] as const)("is refused for %s", (_, of, classes, message) => {
    expect(read(of, {}, classes)).toMatch(message);
  });

  it("is as the options say", () => {
    const mixed = [
      [0, 1],
      [0, 255],
    ];
    expect(read(mixed, { scale: "index" }, 2)).toMatchObject({ ignore: 255, labels: ["0 1", "0 255"] });
    expect(read(mixed, { ignore: 255 }, 2)).toMatchObject({ scale: "index" });
    expect(read(mixed, { scale: "0/255" }, 2)).toMatch(/values 0 and 255 for the mask m0 but received 1/);
    expect(read([[0, 255]], { scale: "index" }, 3)).toMatchObject({ labels: ["0 255"] });
    expect(read([[0, 1, 255]], { ignore: null }, 2)).toMatch(/the label 255, which .*\(--ignore 255\)/);
    expect(read([[0, 128, 255]], { ignore: 128 }, 2)).toEqual({ ignore: 128, scale: "0/255", labels: ["0 255 1"] });
    expect(read([[0, 1, 255]], { ignore: 1, scale: "0/255" }, 2)).toMatchObject({ labels: ["0 255 1"] });
    expect(read([[0, 1, -1]], { ignore: -1 }, 2)).toMatchObject({ labels: ["0 1 255"] });
    expect(read([[0, 1, 65_535]], { ignore: 65_535 }, 2)).toMatchObject({ labels: ["0 1 255"] });
    expect(read([[1, 2]], { scale: "index" }, 3)).toMatchObject({ labels: ["1 2"] });
    expect(read([[0, 255]], { ignore: 255, scale: "0/255" })).toMatch(/another ignored label than 0 and 255/);
  });

  it("does not depend on the order of the masks", () => {
    const of = masks([0, 1, 255], [0, 255], [0, 0]);
    expect(decideLabels(of, {}, 2)).toEqual(decideLabels([...of].reverse(), {}, 2));
  });
});

describe("a dataset", () => {
  const samples = (of: readonly ArrayLike<number>[]) =>
    of.map((mask, i) => ({
      id: `s${i}`,
      image: { data: Float32Array.from(mask, (_, j) => i + j), shape: [1, mask.length] },
      mask: { data: mask as Uint8Array, shape: [1, mask.length] },
    }));
  const open = (of: readonly ArrayLike<number>[], options?: DatasetOptions) =>
    Dataset.fromSamples(samples(of), options);

  it("reads masks in memory by the same rule, of any integer type, and gives it to the next", async () => {
    const set = open([Int16Array.from([0, 255]), Float64Array.from([0, 0])]);
    expect(set.labels).toEqual({ ignore: null, scale: "0/255" });
    expect([...(await set.load(0)).mask!.data]).toEqual([0, 1]);
    expect(() => open([Uint8Array.from([0, 1])], { labels: set.labels })).toThrow("values 0 and 255");
    expect(() => open([Uint8Array.from([0, 1]), Uint8Array.from([0, 255])])).toThrow("masks of one kind");
    expect(() => open([Uint8Array.from([0, 255])], { labels: open([Uint8Array.from([0, 1])]).labels })).toThrow(
      "the label 255",
    );
  });

  it("says what does not count", () => {
    const set = open([Uint8Array.from([0, 1, 255]), Uint8Array.from([255, 255, 255]), Uint8Array.from([0, 0, 1])]);
    expect(set.ignored).toEqual({ pixels: 4, images: 2, unlabelled: 1 });
    expect(set.subset(({ id }) => id === "s0").ignored).toEqual({ pixels: 1, images: 1, unlabelled: 0 });
    expect(describeIgnored(set.ignored, 3, 255)).toBe(
      "ignored (label 255): 4 pixels of 2 of 3 images; no pixel is left of 1, which has no Dice, distance or nll",
    );
    expect(describeIgnored(set.subset(({ id }) => id === "s2").ignored, 1)).toBeUndefined();
  });
});

describe("raw samples for a training", () => {
  const guard = (of: readonly (readonly number[])[], options: { ignoreIndex?: number } = {}) => {
    const seen = new SampleGuard([], options);
    const known = { id: undefined, group: undefined, content: undefined };
    for (const [i, mask] of of.entries()) seen.see("training", i, known, Uint8Array.from(mask));
    return () => seen.check("training");
  };

  it("are class indices: 0 and 255 alone are refused unless 255 is said to be ignored", () => {
    expect(
      guard([
        [0, 0],
        [0, 255],
      ]),
    ).toThrow(/0 and 255 alone, as in training\[1\]\.mask/);
    expect(guard([[0, 255]], { ignoreIndex: 255 })).not.toThrow();
  });

  it("are of one kind: where 255 stands beside other labels it is none, where it stands with 0 alone it may be", () => {
    const mixed = [
      [0, 1],
      [0, 255],
    ];
    expect(guard(mixed)).toThrow(/0 and 255 alone, as in training\[1\]\.mask/);
    expect(guard([...mixed, [1, 255]])).not.toThrow();
    expect(
      guard([
        [0, 1],
        [255, 255],
      ]),
    ).not.toThrow();
    expect(guard(mixed, { ignoreIndex: 255 })).not.toThrow();
  });

  it("are those of the validation, too", () => {
    const known = { id: undefined, group: undefined, content: undefined };
    const seen = new SampleGuard([], { validation: [] });
    seen.see("training", 0, known, Uint8Array.of(0, 1));
    expect(() => seen.check("training")).not.toThrow();
    seen.see("validation", 0, known, Uint8Array.of(0, 255));
    expect(() => seen.check("validation")).toThrow(/masks of validation .*as in validation\[0\]\.mask/);
  });

  it("have a stray label in no mask that would decide for the many others", () => {
    const full = [0, 255, 255];
    expect(guard([full, [0, 1, 255], full])).toThrow(/0 and 255 alone, as in training\[0\]\.mask/);
    expect(() => decideLabels(masks(full, full, [0, 1, 255]), {})).toThrow(/masks of one kind for the mask m2 .*m0/);
    expect(decideLabels(masks(full, full, [0, 1, 255], [0, 1]), {})).toEqual({ ignore: 255, scale: "index" });
    expect(decideLabels(masks(full, full, [0, 1, 255]), { scale: "0/255", ignore: 1 })).toEqual({
      ignore: 1,
      scale: "0/255",
    });
  });

  it("have a pixel that counts", () => {
    expect(guard([[255, 255]])).toThrow(/a pixel that counts in the masks of training/);
    expect(guard([[7]], { ignoreIndex: 7 })).toThrow(/ignored label 7 alone/);
  });
});

describe("truths of the metrics", () => {
  const p = { data: Float64Array.of(0.9, 0.2, 0.1, 0.8), shape: [2, 2] };
  const found = { data: Uint8Array.of(0, 1), shape: [2] };
  const full = { data: Uint8Array.of(0, 255), shape: [2] };
  const heads = { data: Float64Array.of(1, 0, 0, 1, 2, 0, 0, 3, 1, 0, 0, 3), shape: [3, 2, 2] };
  const doors: Record<string, (truth: typeof full, options: { ignoreIndex?: number | null }) => unknown> = {
    dice: (truth, options) => metrics.dice(found, truth, { classes: 2, ...options }),
    iou: (truth, options) => metrics.iou(found, truth, { classes: 2, ...options }),
    quality: (truth, options) => metrics.quality(found, truth, { classes: 2, ...options }),
    hausdorff: (truth, options) => metrics.hausdorff(found, truth, { classes: 2, ...options }),
    nll: (truth, options) => metrics.nll(p, truth, options),
    brier: (truth, options) => metrics.brier(p, truth, options),
    calibration: (truth, options) => metrics.calibration(p, truth, options),
    scoreHeads: (truth, options) => metrics.scoreHeads(heads, { truth, ...options }),
    skipCurve: (truth, options) => metrics.skipCurve([{ heads, truth }], options),
    fitTemperature: (truth, options) => metrics.fitTemperature([p], [truth], options),
    fitHeadWeights: (truth, options) => metrics.fitHeadWeights([[p, p]], [truth], options),
  };

  it.each(Object.keys(doors))("of 0 and 255 alone are refused by %s, unless 255 is said not to count", (name) => {
    const door = doors[name] as (typeof doors)[string];
    expect(() => door(full, {})).toThrow(/class indices for .* but received 0 and 255 alone.*'ignoreIndex': 255/);
    expect(() => door(full, { ignoreIndex: 255 })).not.toThrow();
    expect(() => door({ data: Uint8Array.of(1, 255), shape: [2] }, {})).not.toThrow();
  });
});
