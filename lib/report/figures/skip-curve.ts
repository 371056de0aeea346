import type { SkipCurvePoint } from "../../results/comparison.js";
import { drawChart } from "./chart.js";
import type { Figure } from "./figure.js";
import { fixed } from "./select.js";
import { COLOURS, WIDTH } from "./theme.js";

/**
 * Figure 3: negative log-likelihood on validation by the number of first heads left out, with a band of one standard
 * deviation over images, and the mean Dice above each point.
 * @param points at least one
 * @param chosen the number of skipped heads that is marked; null where other heads than the last ones were chosen
 */
export async function skipCurveFigure(points: readonly SkipCurvePoint[], chosen: number | null): Promise<Figure> {
  const values = points.map((point) => ({
    skip: point.skip,
    nll: point.nll,
    low: Math.max(0, point.nll - (point.nllSd || 0)), // one image has no deviation
    high: point.nll + (point.nllSd || 0),
    dice: fixed(point.dice),
  }));
  const crowded = points.length > 12;
  const x = {
    field: "skip",
    type: "quantitative",
    title: "skipped heads T",
    axis: { values: points.map((point) => point.skip), format: "d", grid: false },
    scale: { padding: 24, nice: false, zero: false },
  };
  const y = { field: "nll", type: "quantitative", title: "nll on validation (nats per pixel)", scale: { zero: false } };
  const label = { type: "text", ...(crowded ? { angle: 270, align: "left", dx: 12 } : { dy: -15 }) };
  const mark = values.filter((point) => point.skip === chosen);
  const title = "Likelihood and Dice by the number of skipped heads";
  const svg = await drawChart(
    {
      width: WIDTH,
      height: 340,
      autosize: { type: "fit", contains: "padding" },
      title: {
        text: "Numbers at the points: mean Dice. Band: ± 1 standard deviation over images.",
        anchor: "start",
        fontSize: 13,
        fontWeight: "normal",
        offset: 10,
      },
      data: { values },
      layer: [
        {
          mark: { type: "area", color: COLOURS.main, opacity: 0.16 },
          encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" } },
        },
        { data: { values: mark }, mark: { type: "rule", color: COLOURS.against, strokeDash: [6, 4] }, encoding: { x } },
        { mark: { type: "line", color: COLOURS.main, strokeWidth: 2.4 }, encoding: { x, y } },
        { mark: { type: "point", filled: true, color: COLOURS.main, opacity: 1, size: 60 }, encoding: { x, y } },
        {
          data: { values: mark },
          mark: { type: "point", shape: "diamond", filled: true, color: COLOURS.against, opacity: 1, size: 190 },
          encoding: { x, y },
        },
        {
          data: { values: mark },
          mark: {
            type: "text",
            text: `chosen: T = ${chosen}`,
            fontWeight: "bold",
            color: COLOURS.against,
            ...((chosen ?? 0) > (points.at(-1)?.skip ?? 0) / 2 ? { align: "right", dx: -8 } : { align: "left", dx: 8 }),
            dy: 12,
          },
          encoding: { x, y: { value: 0 } },
        },
        {
          mark: { ...label, stroke: COLOURS.page, strokeWidth: 4, strokeJoin: "round" },
          encoding: { x, y, text: { field: "dice" } },
        },
        { mark: label, encoding: { x, y, text: { field: "dice" } } },
      ],
    },
    title,
  );
  return {
    name: "figure-3-skipped-heads",
    title,
    caption: `The first heads see little of the image; leaving some out makes the ensemble more likely to be right (lower is better) until too few are left. The numbers are the mean Dice. Chosen on validation alone: T = ${chosen}.`,
    svg,
  };
}
