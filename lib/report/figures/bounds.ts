import type { Comparison, Coverage } from "../../results/comparison.js";
import { percent } from "../../results/format.js";
import { drawChart } from "./chart.js";
import type { Figure } from "./figure.js";
import { firstRun, short } from "./select.js";
import { COLOURS } from "./theme.js";

/** Intervals of each image, and one width for all of them. */
const KINDS = ["of the image", "one for all images"] as const;

/** Figure 9: whether the intervals of predicted Dice hold, and how wide they are: of the first method that has them, the deepest ensemble first. */
export async function boundsFigure(comparison: Comparison): Promise<Figure | undefined> {
  const classes = comparison.scored.map((c) => comparison.classNames[c] as string);
  const found = [...comparison.methods].reverse().flatMap(({ method }) => {
    const covered = firstRun(comparison, method)?.predictedDice;
    const rows = Object.entries(covered?.of ?? {}).flatMap(([name, of]) =>
      rowsOf(name || (classes.length === 1 ? (classes[0] as string) : "over classes"), of),
    );
    return covered && rows.length > 0 ? [{ method, covered, rows }] : [];
  })[0];
  if (!found) return undefined;
  const { method, covered, rows } = found;
  const level = 1 - covered.alpha;
  const names = [...new Set(rows.map(({ name }) => name))];
  const y = {
    ...{ field: "name", type: "nominal", title: null, sort: names },
    axis: { grid: true, ticks: false, domain: false, labelLimit: 170 },
  };
  const styled = <T>(range: readonly T[]) => ({
    field: "kind",
    type: "nominal",
    title: null,
    scale: { domain: KINDS, range },
  });
  const panel = (title: string, axis: object, first: boolean, asked?: number) => {
    const x = { type: "quantitative", title, ...axis };
    return {
      ...{ width: 200, height: { step: 44, for: "position" }, data: { values: rows } },
      layer: [
        {
          mark: { type: "point", filled: true, size: 90, opacity: 1 },
          encoding: {
            x,
            y: first ? y : { ...y, axis: { ...y.axis, labels: false } },
            yOffset: { field: "kind", scale: { domain: KINDS, paddingOuter: 0.7 } },
            color: styled([COLOURS.main, COLOURS.against]),
            shape: styled(["circle", "triangle-up"]),
          },
        },
        ...(asked === undefined
          ? []
          : [
              {
                data: { values: [{ asked }] },
                mark: { type: "rule", color: COLOURS.ink, strokeDash: [2, 3], strokeWidth: 1.6 },
                encoding: { x: { ...x, field: "asked" } },
              },
            ]),
      ],
    };
  };
  const least = Math.min(level, ...rows.map(({ coverage }) => coverage));
  const widest = Math.max(...rows.map(({ width }) => width));
  const from = Math.max(0, Math.floor(10 * least - 1));
  const coverage = {
    field: "coverage",
    scale: { domain: [from / 10, 1], nice: false },
    axis: { format: ".0%", values: Array.from({ length: 11 - from }, (_, i) => (from + i) / 10) },
  };
  const width = {
    field: "width",
    scale: { domain: [0, Math.ceil(10 * widest + 0.5) / 10], nice: false },
    axis: { format: ".1f", tickCount: 5 },
  };
  const title = "Intervals of predicted Dice: how many hold, and how wide they are";
  const svg = await drawChart(
    {
      spacing: 22,
      hconcat: [panel("inside the interval", coverage, true, level), panel("mean width (Dice)", width, false)],
    },
    title,
  );
  const images =
    covered.from === "calibration" ? "of calibration images" : "of the images of the fit, each left out of it";
  return {
    name: "figure-9-bounds",
    title: `${title}: ${short(method)}`,
    caption: `The Dice of ${percent(level)} of the images (dotted) is to be inside the interval; its distances are ${images}. A predicted Dice is worth something where its intervals hold as often as one width around the mean Dice, which needs no image, and are narrower. First seed.`,
    svg,
  };
}

function rowsOf(name: string, { interval, width, constantInterval, constantWidth }: Coverage) {
  const both = [
    { kind: KINDS[0], coverage: interval, width },
    { kind: KINDS[1], coverage: constantInterval, width: constantWidth },
  ];
  return both.flatMap(({ kind, coverage, width }) =>
    coverage === null || width === null ? [] : [{ name, kind, coverage, width }],
  );
}
