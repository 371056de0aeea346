import type { Comparison } from "../../results/comparison.js";
import { drawChart, panelGrid } from "./chart.js";
import type { Figure } from "./figure.js";
import { fixed, ranked, suitedConfidence } from "./select.js";
import { COLOURS } from "./theme.js";

/** In the order of drawing: the method's own curve is on top. */
const lines = [
  { name: "at random", colour: COLOURS.soft, dash: [2, 3] },
  { name: "ideal", colour: COLOURS.ideal, dash: [7, 4] },
  { name: "5 % of the failures remain", colour: COLOURS.against, dash: [10, 3, 2, 3] },
  { name: "least sure first", colour: COLOURS.main, dash: [1, 0] },
] as const;

/** Figure 2: failures that nobody looks at, by the share of images that are reviewed; one panel for each method. */
export async function qualityControlFigure(comparison: Comparison): Promise<Figure | undefined> {
  const panels = comparison.methods.flatMap((method) => {
    const confidence = suitedConfidence(method);
    const curve = method.qcCurves[confidence];
    if (!curve) return [];
    const failed = curve.random[0] ?? 0;
    const data = curve.f.flatMap((f, i) =>
      [curve.random[i], curve.ideal[i], 0.05 * failed, curve.y[i]].map((y, line) => ({
        f,
        y,
        line: lines[line]!.name,
      })),
    );
    return [{ title: [ranked(method.method, confidence), `area ${fixed(curve.area, 4)}`], data, failed }];
  });
  if (panels.length === 0) return undefined;
  const highest = Math.max(0.01, ...panels.map((panel) => panel.failed));
  const names = lines.map((line) => line.name);
  const styled = <T>(of: (line: (typeof lines)[number]) => T) => ({
    field: "line",
    type: "nominal",
    title: null,
    scale: { domain: names, range: lines.map(of) },
  });
  const axes = {
    x: {
      field: "f",
      type: "quantitative",
      title: "share reviewed",
      scale: { domain: [0, 1] },
      axis: { format: ".0%", values: panels.length > 4 ? [0, 0.5, 1] : [0, 0.25, 0.5, 0.75, 1] },
    },
    y: {
      field: "y",
      type: "quantitative",
      title: "unseen failures",
      scale: { domain: [0, highest] },
      axis: { format: "~%", tickCount: 5 },
    },
  };
  const title = "Failures left unseen when the least sure images are reviewed";
  const svg = await drawChart(
    {
      ...panelGrid(
        panels,
        axes,
        ({ x, y }) => ({
          mark: { type: "line", clip: true, strokeWidth: 2 },
          encoding: {
            x,
            y,
            color: styled((line) => line.colour),
            strokeDash: styled((line) => [...line.dash]),
          },
        }),
        { single: 280, several: 150 },
      ),
      config: { legend: { columns: 2, symbolType: "stroke", symbolSize: 500 } },
    },
    title,
  );
  return {
    name: "figure-2-quality-control",
    title,
    caption: `Share of all images that have failed and are not seen, when the images are reviewed from the least sure on. The lower the curve, the sooner the failures (Dice below ${comparison.tau}) are found: a good confidence stays near the ideal line, a useless one follows the random line. Where the curve falls below the 5 % line, 95 % of the failures have been seen. The panels differ in height at the left because each method fails on its own images. First seed of each method.`,
    svg,
  };
}
