import type { Comparison, MethodResult, ReliabilityBin } from "../../results/comparison.js";
import { drawChart, panelGrid } from "./chart.js";
import type { Figure } from "./figure.js";
import { fixed, short } from "./select.js";
import { COLOURS } from "./theme.js";

const shareOfPixels = {
  field: "share",
  type: "quantitative",
  title: "share of the pixels",
  scale: { type: "sqrt", domain: [0, 1], range: [16, 260] },
  legend: {
    values: [0.01, 0.1, 0.5, 1],
    format: "~%",
    symbolFillColor: COLOURS.main,
    symbolStrokeColor: COLOURS.main,
    titleOrient: "left",
    titleFontWeight: "normal",
    titleFontSize: 13,
  },
};

/** Reliability diagrams: how often pixels of some confidence are right; one panel for each method. */
export async function reliabilityFigure(comparison: Comparison): Promise<Figure | undefined> {
  const panels = comparison.methods.flatMap((method) => {
    const bins = pooled(comparison, method);
    if (bins.length === 0) return [];
    const all = bins.reduce((sum, bin) => sum + bin.count, 0);
    const data = bins.map((bin) => ({ ...bin, share: bin.count / all }));
    return [{ title: `${short(method.method)}: ECE ${fixed(method.pooled.ece.value, 4)}`, data }];
  });
  if (panels.length === 0) return undefined;
  const common = {
    type: "quantitative",
    scale: { domain: [0, 1], nice: false },
    axis: { values: [0, 0.2, 0.4, 0.6, 0.8, 1] },
  };
  const axes = {
    x: { ...common, field: "confidence", title: "mean confidence" },
    y: { ...common, field: "accuracy", title: "accuracy" },
  };
  const diagonal = [0, 1].map((value) => ({ confidence: value, accuracy: value }));
  const title = "Reliability of the fused probabilities";
  const svg = await drawChart(
    panelGrid(
      panels,
      axes,
      ({ x, y }) => ({
        layer: [
          {
            data: { values: diagonal },
            mark: { type: "line", color: COLOURS.soft, strokeDash: [6, 4], strokeWidth: 1.4 },
            encoding: { x, y },
          },
          { mark: { type: "line", color: COLOURS.main, strokeWidth: 1.6 }, encoding: { x, y } },
          {
            mark: { type: "point", filled: true, color: COLOURS.main, opacity: 1 },
            encoding: { x, y, size: shareOfPixels },
          },
        ],
      }),
      { single: 300, several: 160 },
    ),
    title,
  );
  return {
    name: "figure-6-reliability",
    title,
    caption:
      "Pixels of all images and seeds, in 15 bins by the probability of the class they were given. On the dashed line a confidence of 0.8 is right in 80 % of the cases; below it the method is too sure of itself, above it not sure enough. Most pixels are plain background, at the top right.",
    svg,
  };
}

/** The bins that hold pixels, over all seeds of a method. */
function pooled(
  comparison: Comparison,
  method: MethodResult,
): { count: number; confidence: number; accuracy: number }[] {
  const runs = method.runs.map((index): ReliabilityBin[] => comparison.runs[index]?.calibration.bins ?? []);
  const length = Math.max(0, ...runs.map((bins) => bins.length));
  return Array.from({ length }, (_, i) => {
    const filled = runs.flatMap((bins) => {
      const { count = 0, confidence = null, accuracy = null } = bins[i] ?? {};
      return count > 0 && confidence !== null && accuracy !== null ? [{ count, confidence, accuracy }] : [];
    });
    const count = filled.reduce((sum, bin) => sum + bin.count, 0);
    const mean = (of: "confidence" | "accuracy") => filled.reduce((sum, bin) => sum + bin.count * bin[of], 0) / count;
    return { count, confidence: mean("confidence"), accuracy: mean("accuracy") };
  }).filter((bin) => bin.count > 0);
}
