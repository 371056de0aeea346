// A comparison as tables: for the terminal, and as CSV files.

import { csvText, distinctNames } from "../data/csv.js";
import { describeIgnored } from "../data/labels.js";
import { describeSeen, describeUnknown } from "../data/leaks.js";
import { METHOD_TITLES } from "../ensemble/methods.js";
import { fixed, formatTable, grouped } from "../report/table.js";
import { CONFIDENCES, confidenceTitle, IMAGE_SCORE_NAMES } from "../scores/scores.js";
import type { Comparison, ConfidenceResult, Estimate, MeanEstimate, MethodResult, PairedTest } from "./results.js";
import { POOLED } from "./statistics.js";

const title = ({ method, runs }: MethodResult) =>
  `${METHOD_TITLES[method].short}${runs.length > 1 ? ` (${runs.length} seeds)` : ""}`;

/** `0.812 [0.79, 0.83]` */
function estimated({ value, low, high }: Estimate, decimals = 3): string {
  if (value === null) return "–";
  return low === null
    ? fixed(value, decimals)
    : `${fixed(value, decimals)} [${fixed(low, decimals)}, ${fixed(high, decimals)}]`;
}

/** `0.812 ± 0.10 [0.79, 0.83]` */
function spreadOut(of: MeanEstimate, decimals = 3): string {
  if (of.value === null) return "–";
  const bounds = of.low === null ? "" : ` [${fixed(of.low, decimals)}, ${fixed(of.high, decimals)}]`;
  return `${fixed(of.value, decimals)} ± ${fixed(of.sd, decimals)}${bounds}`;
}

const pValue = (p: number | null) => (p === null ? "–" : p < 0.001 ? p.toExponential(0) : p.toFixed(3));

/** Everything that the terminal shows of a comparison. */
export function describeComparison(comparison: Comparison): string {
  const { data, bootstrap, tau, scored, classNames, summary } = comparison;
  const classes = scored.map((c) => classNames[c]).join(", ");
  const failed = comparison.methods.map(
    (method) => `${METHOD_TITLES[method.method].short} ${failures(comparison, method)}`,
  );
  const sections = [
    `${comparison.title}: ${data.images} images${data.groups < data.images ? ` of ${data.groups} groups` : ""}; ${classes}`,
    ...[data.ignored && describeIgnored(data.ignored, data.images)].filter((said) => said !== undefined),
    ...(data.seen ? [describeSeen(data.seen, data.images)] : []),
    ...(data.unknown ?? []).map(({ run, splits }) => describeUnknown(run, splits)),
    `Brackets: 95 % intervals, ${bootstrap.resamples} resamples of ${bootstrap.unit}s. Means of images, then of seeds.`,
    "",
    "Table 1. Segmentation quality",
    qualityTable(comparison),
    testsTable(comparison),
    `Table 2. Spearman's correlation of each confidence with Dice and with MHD (maps: minus their ${summary})`,
    correlationTable(comparison),
    `Table 3. Finding failures: Dice below ${fixed(tau, 2)} (${failed.join(", ")} of ${data.images - (data.ignored?.unlabelled ?? 0)})`,
    failureTable(comparison),
    "Calibration over all pixels, and cost",
    costTable(comparison),
    ...(comparison.shift ? shiftSection(comparison) : []),
  ];
  return `${sections.filter((section) => section !== null).join("\n")}`;
}

/** Failed images of each of a method's runs, averaged. */
function failures({ runs, tau }: Comparison, method: MethodResult): string {
  const counts = method.runs.map((r) => runs[r]?.images.filter(({ dice }) => dice !== null && dice < tau).length ?? 0);
  const mean = counts.reduce((sum, count) => sum + count, 0) / counts.length;
  return Number.isInteger(mean) ? String(mean) : mean.toFixed(1);
}

function qualityTable({ methods, scored }: Comparison): string {
  const classes = scored.length > 1 ? Object.keys(methods[0]?.classDice ?? {}) : [];
  return formatTable(
    [
      { heading: "method", align: "left" },
      { heading: "DSC" },
      ...classes.map((name) => ({ heading: `DSC of ${name}` })),
      { heading: "MHD" },
      { heading: "left out" },
      { heading: "nll" },
    ],
    methods.map((method) => [
      title(method),
      spreadOut(method.quality.dice),
      ...classes.map((name) => fixed(method.classDice[name]?.value)),
      spreadOut(method.quality.mhd, 2),
      method.quality.mhd.leftOutPerRun.join(", "),
      spreadOut(method.quality.nll, 4),
    ]),
  );
}

function testsTable({ tests, bootstrap }: Comparison): string | null {
  if (tests.length === 0) return null;
  const unit = bootstrap.unit === "group" ? "group means" : "images";
  return formatTable(
    [
      { heading: `LE minus other, ${unit}`, align: "left" },
      { heading: "measure", align: "left" },
      { heading: "difference" },
      { heading: "pairs" },
      { heading: "p (Wilcoxon)" },
      { heading: "p (paired t)" },
    ],
    tests.map(({ measure, other, n, difference, wilcoxonP, tP }) => [
      METHOD_TITLES[other].short,
      MEASURES[measure],
      difference === null ? "–" : `${difference > 0 ? "+" : ""}${fixed(difference, 4)}`,
      String(n),
      pValue(wilcoxonP),
      pValue(tP),
    ]),
  );
}

const MEASURES: Readonly<Record<PairedTest["measure"], string>> = { dice: "DSC", mhd: "MHD", nll: "nll" };

function byConfidence({ methods }: Comparison, row: (of: ConfidenceResult) => string[], empty: number): string[][] {
  return CONFIDENCES.flatMap((name) => {
    const shown = methods.filter((method) => method.confidence[name] !== null);
    return shown.map((method, i) => [
      i === 0 ? confidenceTitle(name) : "",
      title(method),
      ...row(method.confidence[name] as ConfidenceResult),
    ]);
  }).map((cells) => [...cells, ...Array<string>(Math.max(0, empty - cells.length)).fill("")]);
}

function correlationTable(comparison: Comparison): string {
  return formatTable(
    [
      { heading: "confidence", align: "left" },
      { heading: "method", align: "left" },
      { heading: "with Dice" },
      { heading: "with MHD" },
    ],
    byConfidence(comparison, (of) => [estimated(of.spearmanDice), estimated(of.spearmanMhd)], 4),
  );
}

function failureTable(comparison: Comparison): string {
  return formatTable(
    [
      { heading: "confidence", align: "left" },
      { heading: "method", align: "left" },
      ...["AURC", "e-AURC", "AUGRC", "AUROC", "FPR95", "QC area", "5 % left at"].map((heading) => ({ heading })),
    ],
    byConfidence(
      comparison,
      (of) => [
        estimated(of.aurc),
        fixed(of.eaurc.value),
        fixed(of.augrc.value),
        estimated(of.auroc),
        fixed(of.fpr95.value),
        fixed(of.qcArea.value),
        fixed(of.remaining5.value),
      ],
      9,
    ),
  );
}

function costTable({ methods }: Comparison): string {
  return formatTable(
    [
      { heading: "method", align: "left" },
      ...["ECE", "Brier", "nll", "parameters", "ms per image", "× Plain"].map((heading) => ({ heading })),
    ],
    methods.map((method) => [
      title(method),
      ...POOLED.map((name) => estimated(method.pooled[name], 4)),
      grouped(method.cost.parameters),
      fixed(method.cost.msPerImage, 1),
      fixed(method.cost.ratioToPlain, 2),
    ]),
  );
}

function shiftSection({ shift, methods, classNames }: Comparison): string[] {
  if (!shift) return [];
  const { images, imagesIn, scored, rows, folder, split, ignored, seen } = shift;
  const names = scored.map((c) => classNames[c]).join(", ");
  const table = formatTable(
    [
      { heading: "method", align: "left" },
      { heading: "confidence", align: "left" },
      { heading: "AUROC, in against out" },
      { heading: "flagged in" },
      { heading: "flagged out" },
      { heading: "Dice in" },
      { heading: "Dice out" },
    ],
    rows.map((row, i) => {
      const first = rows[i - 1]?.method !== row.method;
      const method = methods.find((one) => one.method === row.method);
      return [
        first && method ? title(method) : "",
        confidenceTitle(row.confidence),
        estimated(row.auroc),
        fixed(row.flaggedIn),
        estimated(row.flaggedOut),
        first ? fixed(row.diceIn) : "",
        first ? fixed(row.diceOut) : "",
      ];
    }),
  );
  const said = ignored && describeIgnored(ignored, images);
  return [
    `Shift: ${images} images of ${folder} (${split}) against ${imagesIn} in distribution; ${names}`,
    ...(said === undefined ? [] : [said]),
    ...(seen ? [describeSeen(seen, images)] : []),
    table,
  ];
}

type Cell = string | number | null | undefined;

function csv(header: readonly string[], rows: readonly (readonly Cell[])[]): string {
  return csvText(
    header,
    rows.map((row) => row.map((cell) => cell ?? "")),
  );
}

/** The CSV files by name. Numbers are not rounded; an empty cell is what is not defined. */
export function csvTables(comparison: Comparison): Record<string, string> {
  const { methods, runs, tests, bootstrap, shift } = comparison;
  const bounds = ({ value, low, high }: Estimate): Cell[] => [value, low, high];
  const quality = methods.flatMap((method) => {
    const row = (measure: string, name: string, of: MeanEstimate): Cell[] => [
      ...[method.method, method.runs.length, measure, name],
      ...bounds(of),
      ...[of.sd, of.n, of.leftOut],
    ];
    return [
      ...Object.entries(method.quality).map(([measure, of]) => row(measure, "", of)),
      ...Object.entries(method.classDice).map(([name, of]) => row("dice", name, of)),
      ...Object.entries(method.classMhd).map(([name, of]) => row("mhd", name, of)),
      ...POOLED.map((name): Cell[] => [
        ...[method.method, method.runs.length, `pooled_${name}`, ""],
        ...[...bounds(method.pooled[name]), null, null, null],
      ]),
    ];
  });
  const confidences = methods.flatMap((method) =>
    CONFIDENCES.flatMap((name) => {
      const of = method.confidence[name];
      return of ? [{ of, start: [method.method, method.runs.length, name] as Cell[] }] : [];
    }),
  );
  const failure = ["aurc", "eaurc", "augrc", "auroc", "fpr95", "qcArea", "remaining5"] as const;
  const withBounds = (names: readonly string[]) => names.flatMap((name) => [name, `${name}_low`, `${name}_high`]);
  const interval = ["value", "low", "high"];
  return {
    "table1-quality.csv": csv(["method", "runs", "measure", "class", ...interval, "sd", "images", "left_out"], quality),
    "table2-correlation.csv": csv(
      ["method", "runs", "confidence", ...withBounds(["spearman_dice", "spearman_mhd"])],
      confidences.map(({ of, start }) => [...start, ...bounds(of.spearmanDice), ...bounds(of.spearmanMhd)]),
    ),
    "table3-failure-detection.csv": csv(
      ["method", "runs", "confidence", "tau", ...withBounds(failure)],
      confidences.map(({ of, start }) => [...start, comparison.tau, ...failure.flatMap((name) => bounds(of[name]))]),
    ),
    "calibration.csv": csv(
      ["method", "seed", "ece", "brier", "nll", "bin", "bin_pixels", "bin_confidence", "bin_accuracy"],
      runs.flatMap(({ method, seed, calibration: { ece, brier, nll, bins } }) =>
        bins.map((bin, b): Cell[] => [method, seed, ece, brier, nll, b + 1, bin.count, bin.confidence, bin.accuracy]),
      ),
    ),
    "cost.csv": csv(
      ["method", "parameters", "ms_per_image", "ratio_to_plain"],
      methods.map(({ method, cost }) => [method, cost.parameters, cost.msPerImage, cost.ratioToPlain]),
    ),
    "tests.csv": csv(
      ["measure", "other", "unit", "pairs", "difference", "wilcoxon_p", "t_p"],
      tests.map((of) => [of.measure, of.other, bootstrap.unit, of.n, of.difference, of.wilcoxonP, of.tP]),
    ),
    ...(shift && {
      "shift.csv": csv(
        [
          "method",
          "confidence",
          ...withBounds(["auroc"]),
          "flagged_in",
          ...withBounds(["flagged_out"]),
          "dice_in",
          "dice_out",
        ],
        shift.rows.map((row) => [
          ...[row.method, row.confidence, ...bounds(row.auroc), row.flaggedIn],
          ...[...bounds(row.flaggedOut), row.diceIn, row.diceOut],
        ]),
      ),
    }),
    "images.csv": imagesCsv(comparison),
  };
}

function imagesCsv({ runs, shift, scored, classNames }: Comparison): string {
  const measures = ["dice", "iou", "mhd", "hausdorff", "hd95", "assd", "nll", "brier", "ece"] as const;
  const maps = Object.keys(runs[0]?.images[0]?.uncertainty ?? {});
  const header = distinctNames([
    ...["set", "method", "seed", "id", "group", ...measures],
    ...scored.flatMap((c) => [`dice_${classNames[c]}`, `mhd_${classNames[c]}`]),
    ...["empty", ...IMAGE_SCORE_NAMES, ...maps, "ignored"],
  ]);
  const rows = (set: string, records: Comparison["runs"], classes: readonly number[]) =>
    records.flatMap(({ method, seed, images }) =>
      images.map((image): Cell[] => [
        ...[set, method, seed, image.id, image.group],
        ...measures.map((name) => image[name]),
        ...scored.flatMap((c) => {
          const at = classes.indexOf(c);
          return [image.classDice[at], image.classMhd[at]];
        }),
        String(image.empty),
        ...IMAGE_SCORE_NAMES.map((name) => image[name]),
        ...maps.map((name) => image.uncertainty[name]),
        image.ignored,
      ]),
    );
  return csv(header, [...rows("in", runs, scored), ...(shift ? rows("out", shift.runs, shift.scored) : [])]);
}
