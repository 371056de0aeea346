import type { Comparison } from "../../results/comparison.js";
import { drawChart } from "./chart.js";
import type { Figure } from "./figure.js";
import { firstRun } from "./select.js";
import { COLOURS } from "./theme.js";

/** Histogram of the depth from which the heads agree, of images that are good enough and of those that failed. */
export async function predictionDepthFigure(comparison: Comparison): Promise<Figure | undefined> {
  const run = firstRun(comparison, "le");
  const images = (run?.images ?? []).flatMap(({ predictionDepth, dice }) =>
    predictionDepth === null || dice === null ? [] : [{ predictionDepth, dice }],
  );
  if (!run || images.length === 0) return undefined;
  const last = Math.max(1, run.heads.length - 1);
  const kinds = [
    { name: "good enough", images: images.filter((image) => image.dice >= comparison.tau) },
    { name: "failed", images: images.filter((image) => image.dice < comparison.tau) },
  ].map((kind) => ({
    ...kind,
    name: `${kind.name} (${kind.images.length} image${kind.images.length === 1 ? "" : "s"})`,
  }));
  const names = kinds.map((kind) => kind.name);
  const values = kinds.flatMap(({ name, images }) =>
    Array.from({ length: last }, (_, i) => ({
      kind: name,
      depth: i + 1,
      count: images.filter((image) => Math.round(image.predictionDepth) === i + 1).length,
    })).filter((bar) => bar.count > 0),
  );
  const title = "Prediction depth";
  const svg = await drawChart(
    {
      data: { values },
      spacing: 16,
      facet: {
        row: {
          field: "kind",
          type: "nominal",
          sort: names,
          title: null,
          header: { orient: "top", labelAnchor: "start" },
        },
      },
      resolve: { scale: { y: "independent" } },
      spec: {
        width: 520,
        height: 120,
        mark: { type: "bar", stroke: COLOURS.ink, strokeWidth: 0.6 },
        encoding: {
          x: {
            field: "depth",
            type: "ordinal",
            title: "prediction depth (neighbouring pair of heads, shallow to deep)",
            axis: { labelAngle: 0 },
            scale: { domain: Array.from({ length: last }, (_, i) => i + 1) },
          },
          y: {
            field: "count",
            type: "quantitative",
            title: "images",
            axis: { tickMinStep: 1, tickCount: 4, format: "d" },
          },
          color: {
            field: "kind",
            type: "nominal",
            scale: { domain: names, range: [COLOURS.main, COLOURS.against] },
            legend: null,
          },
        },
      },
    },
    title,
  );
  return {
    name: "figure-5b-prediction-depth",
    title,
    caption:
      "From which pair of heads on the outline hardly changes any more; values between two depths (several classes) are rounded. Hard images tend to settle late: look whether the lower histogram lies further to the right. First seed of LE.",
    svg,
  };
}
