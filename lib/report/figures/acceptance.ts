import type { AcceptanceCurve, Comparison, MethodResult } from "../../results/comparison.js";
import { percent } from "../../results/format.js";
import { SCORES } from "../../scores/scores.js";
import { drawChart } from "./chart.js";
import type { Figure } from "./figure.js";
import { short } from "./select.js";
import { COLOURS } from "./theme.js";

/** Of the best score, and of AULA where another is best. */
const lines = [
  { colour: COLOURS.main, dash: [1, 0] },
  { colour: COLOURS.against, dash: [7, 4] },
] as const;

/**
 * Figure 8: what certificates accept and how much of it fails, by what they promise: of the method that has AULA, else of the first
 * that has such curves.
 */
export async function acceptanceFigure({ methods }: Comparison): Promise<Figure | undefined> {
  const known = methods.filter(({ acceptance }) => acceptance?.length);
  const method = known.find(({ acceptance }) => acceptance?.some(({ score }) => score === "aula")) ?? known[0];
  const curves = method?.acceptance ?? [];
  const [first] = curves;
  if (!method || !first) return undefined;
  const names = curves.map(({ score }) => SCORES[score].title);
  const values = curves.flatMap(({ points, score }) =>
    points.map((point) => ({ ...point, line: SCORES[score].title })),
  );
  const most = Math.max(...values.map(({ alpha }) => alpha));
  const x = {
    field: "alpha",
    type: "quantitative",
    title: "promised: failures of the accepted, at most",
    scale: { domain: [0, most], nice: false },
    axis: { format: ".0%", tickCount: 5 },
  };
  const styled = <T>(of: (line: (typeof lines)[number]) => T) => ({
    field: "line",
    type: "nominal",
    title: null,
    scale: { domain: names, range: lines.slice(0, names.length).map(of) },
  });
  const marks = { color: styled(({ colour }) => colour), strokeDash: styled(({ dash }) => [...dash]) };
  const panel = (title: string, layer: readonly object[]) => ({
    ...{ width: 236, height: 230, data: { values } },
    title: { text: title, fontWeight: "normal", anchor: "middle", offset: 6 },
    layer,
  });
  // A label at the top of both keeps their titles at one height.
  const y = (field: string, most: number) => {
    const step = most > 0.6 ? 0.2 : most > 0.25 ? 0.1 : 0.05;
    const ticks = Math.ceil(most / step - 1e-9);
    return {
      ...{ field, type: "quantitative", title: null },
      scale: { domain: [0, ticks * step], nice: false },
      axis: { format: ".0%", values: Array.from({ length: ticks + 1 }, (_, i) => i * step) },
    };
  };
  const highest = Math.max(most, ...values.map(({ failedHigh }) => failedHigh));
  const line = (field: string, top: number) => ({
    mark: { type: "line", strokeWidth: 2.2, point: { size: 34, filled: true } },
    encoding: { x, y: y(field, top), ...marks },
  });
  const title = "Accepted, and failed of the accepted, by what a certificate promises";
  const svg = await drawChart(
    {
      spacing: 24,
      hconcat: [
        panel("accepted", [line("accepted", 1)]),
        panel("failed of the accepted", [
          {
            data: { values: [0, most].map((alpha) => ({ alpha, failed: alpha })) },
            mark: { type: "line", color: COLOURS.soft, strokeDash: [2, 3], strokeWidth: 1.6 },
            encoding: { x, y: y("failed", highest) },
          },
          {
            mark: { type: "line", strokeWidth: 1, opacity: 0.8 },
            encoding: { x, y: y("failedHigh", highest), ...marks },
          },
          line("failed", highest),
        ]),
      ],
      config: { legend: { symbolType: "stroke", symbolSize: 500 } },
    },
    title,
  );
  return {
    name: "figure-8-acceptance",
    title: `${title}: ${short(method.method)}`,
    caption: captionOf(method, first),
    svg,
  };
}

function captionOf({ runs }: MethodResult, { halves, rule, tau, delta }: AcceptanceCurve): string {
  const seed = runs.length > 1 ? " First seed." : "";
  return `A certificate (rule ${rule}, δ = ${percent(delta)}) of a random half of the images decides the other half, ${halves} times. Left: the mean share that is accepted; where nothing can be proved, nothing is. Right: how much of what is accepted has failed (Dice below ${tau}), its mean (with points), and what is not exceeded in ${percent(1 - delta)} of the halves (thin): a promise is kept where that is below the dotted line, a little above it by chance, for a half is itself a sample. Which score is best was found on the same images.${seed}`;
}
