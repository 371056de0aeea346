import type { Comparison, MethodResult, RunRecord, ShiftRow } from "../../results/comparison.js";
import { type ConfidenceName, confidenceAxis, LEAST_SURE, recordedConfidence } from "../../scores/scores.js";
import { drawChart } from "./chart.js";
import type { Figure } from "./figure.js";
import { firstRun, fixed, ranked, suitedConfidence } from "./select.js";
import { COLOURS } from "./theme.js";

const binCount = 20;

/** Figure 7a: histograms of the confidence that suits each method, in distribution against out of it. */
export async function shiftFigure(comparison: Comparison): Promise<Figure | undefined> {
  const { shift } = comparison;
  const title = "Confidence in distribution and out of it";
  const svg = await histograms(comparison, suitedConfidence, title);
  if (!shift || svg === undefined) return undefined;
  return {
    name: "figure-7a-shift",
    title,
    caption: `How sure each method is on the ${shift.imagesIn} images in distribution and on the ${shift.images} shifted ones. The further the two histograms are apart, the better the shift is noticed (AUROC 1: no overlap; 0.5: no difference). Images left of the dotted line are flagged. First seed of each method.`,
    svg,
  };
}

/** Figure 7b: the same of the distance from the training, of the methods that have it. */
export async function distanceFigure(comparison: Comparison): Promise<Figure | undefined> {
  const title = "Distance from the training in distribution and out of it";
  const svg = await histograms(comparison, () => "tapDistance", title);
  if (svg === undefined) return undefined;
  return {
    name: "figure-7b-distance",
    title,
    caption:
      "How far the features of the same images are from those of the training’s images, whatever the prediction is like; drawn as minus the distance, so that as above the right is surer: 0 is nearer than all of validation, −1 farther than all. Images left of the dotted line are flagged by this comparison; the gate of a run goes by the excess, which goes on where the distance ends. First seed of each method.",
    svg,
  };
}

/** One panel for each method that has the confidence, in distribution and out of it. */
async function histograms(
  comparison: Comparison,
  confidenceOf: (method: MethodResult) => ConfidenceName,
  title: string,
): Promise<string | undefined> {
  const { shift } = comparison;
  if (!shift) return undefined;
  const panels = comparison.methods.flatMap((method) => {
    const confidence = confidenceOf(method);
    const row = shift.rows.find((row) => row.method === method.method && row.confidence === confidence);
    const inside = values(firstRun(comparison, method.method));
    const outside = values(shift.runs.find((run) => run.method === method.method));
    return row && inside.length > 0 && outside.length > 0 ? [panel(row, comparison.summary, inside, outside)] : [];

    function values(run: RunRecord | undefined): number[] {
      const given = { heads: run?.heads.length ?? 0, summary: comparison.summary };
      return (run?.images ?? []).flatMap((image) => {
        const value = recordedConfidence(image, confidence, given);
        // What is empty has no place on the axis.
        return value === null || value === LEAST_SURE ? [] : [value];
      });
    }
  });
  if (panels.length === 0) return undefined;
  return drawChart({ vconcat: panels, spacing: 14, config: { concat: { spacing: 14 } } }, title);
}

function panel(
  row: ShiftRow,
  summary: Comparison["summary"],
  inside: readonly number[],
  outside: readonly number[],
): object {
  const all = [...inside, ...outside];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const step = (high - low || 1) / binCount;
  const names = ["in distribution", "shifted"];
  const rows = [inside, outside].flatMap((sample, kind) => {
    const counts = new Array<number>(binCount).fill(0);
    for (const value of sample) counts[Math.min(binCount - 1, Math.floor((value - low) / step))]! += 1;
    return counts.map((count, i) => ({
      from: low + i * step,
      to: low + (i + 1) * step,
      share: count / sample.length,
      kind: names[kind],
    }));
  });
  const x = {
    field: "from",
    type: "quantitative",
    title: confidenceAxis(row.confidence, summary),
    scale: { zero: false, nice: false },
    axis: { grid: false, tickCount: 6 },
  };
  const y = {
    field: "share",
    type: "quantitative",
    title: "images",
    scale: { domain: [0, 1.06 * Math.max(...rows.map(({ share }) => share))], nice: false },
    axis: { format: "~%", tickCount: 3 },
  };
  const threshold = row.thresholds[0];
  return {
    width: 520,
    height: 84,
    title: {
      text: `${ranked(row.method, row.confidence)} · AUROC ${fixed(row.auroc.value, 2)}`,
      anchor: "start",
      fontWeight: "normal",
      offset: 4,
    },
    layer: [
      {
        data: { values: rows },
        mark: { type: "rect", opacity: 0.3 },
        encoding: {
          x,
          x2: { field: "to" },
          y,
          y2: { datum: 0 },
          color: {
            field: "kind",
            type: "nominal",
            title: null,
            scale: { domain: names, range: [COLOURS.main, COLOURS.against] },
          },
        },
      },
      {
        data: { values: outlines(rows) },
        mark: { type: "line", interpolate: "step-after", strokeWidth: 2 },
        encoding: {
          x,
          y,
          color: { field: "kind", type: "nominal" },
          strokeDash: {
            field: "kind",
            type: "nominal",
            title: null,
            scale: {
              domain: names,
              range: [
                [1, 0],
                [5, 3],
              ],
            },
          },
        },
      },
      ...(threshold === null || threshold === undefined
        ? []
        : [
            {
              data: { values: [{}] },
              mark: { type: "rule", color: COLOURS.ink, strokeDash: [2, 3], strokeWidth: 1.6 },
              encoding: { x: { datum: threshold } },
            },
          ]),
    ],
  };
}

/** The steps along the tops of the bars: one more point closes the last bar. */
function outlines(rows: readonly { from: number; to: number; share: number; kind: string | undefined }[]) {
  return rows.flatMap((row, i) => {
    const last = (i + 1) % binCount === 0;
    return last ? [row, { ...row, from: row.to }] : [row];
  });
}
