import type { AlarmStream, Comparison } from "../../results/comparison.js";
import { percent } from "../../results/format.js";
import { SCORES } from "../../scores/scores.js";
import { drawChart } from "./chart.js";
import type { Figure } from "./figure.js";
import { short } from "./select.js";
import { COLOURS } from "./theme.js";

/** Of images before and after the change. */
const KINDS = ["in distribution", "shifted"] as const;

/** Values are drawn between these: the lower as it is, the upper in limits. */
const DRAWN = { least: 1e-3, limits: 1e3 } as const;

/** Figure 7c: the martingale of the alarm over a stream that begins to differ, of each method. */
export async function streamFigure({ shift }: Comparison): Promise<Figure | undefined> {
  const streams = shift?.streams ?? [];
  const [first] = streams;
  if (!first) return undefined;
  const title = "The alarm over a stream that begins to differ";
  const svg = await drawChart({ vconcat: streams.map(panel), spacing: 14 }, title);
  return {
    name: "figure-7c-stream",
    title,
    caption: `A random half of the images in distribution (${first.calibration}) calibrates the alarm; the others come one after another, and after them the shifted ones. It goes off where the martingale, the capital of bets against all being as before, reaches the dashed line; while nothing changes it does so ever in at most 1 % of streams, in whatever order. The line is one random order, the band holds 90 % of ${first.orders}. Images come singly: a patient's slices one after another are no such stream. First seed of each method.`,
    svg,
  };
}

function panel(stream: AlarmStream): object {
  const { method, watched, before, limit, values, low, high } = stream;
  const most = limit * DRAWN.limits;
  const drawn = (value: number) => Math.min(most, Math.max(DRAWN.least, value));
  const rows = values.flatMap((value, i) => {
    const row = {
      ...{ case: i + 1, value: drawn(value), low: drawn(low[i] as number), high: drawn(high[i] as number) },
      kind: KINDS[i < before ? 0 : 1],
    };
    // The first shifted image also ends the line before it.
    return i === before ? [{ ...row, kind: KINDS[0] }, row] : [row];
  });
  const x = {
    field: "case",
    type: "quantitative",
    title: "images of the stream",
    scale: { domain: [1, values.length], nice: false },
    axis: { grid: false, tickCount: 6, tickMinStep: 1 },
  };
  const [bottom, top] = [
    Math.min(0.1, ...rows.map((row) => row.low)),
    Math.max(10 * limit, ...rows.map((row) => row.high)),
  ];
  const ticks = [-3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7]
    .map((power) => 10 ** power)
    .filter((at) => at >= bottom && at <= top);
  const y = {
    type: "quantitative",
    title: "martingale",
    scale: { type: "log", domain: [bottom, top], nice: false },
    axis: { values: ticks.filter((_, i) => ticks.length < 6 || i % 2 === ticks.indexOf(1) % 2), format: ",~g" },
  };
  const color = {
    field: "kind",
    type: "nominal",
    title: null,
    scale: { domain: KINDS, range: [COLOURS.main, COLOURS.against] },
  };
  return {
    width: 500,
    height: 110,
    title: { text: heading(stream), anchor: "start", fontWeight: "normal", offset: 4 },
    data: { values: rows },
    layer: [
      {
        mark: { type: "area", opacity: 0.25 },
        encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" }, color },
      },
      { mark: { type: "line", strokeWidth: 2 }, encoding: { x, y: { ...y, field: "value" }, color } },
      {
        data: { values: [{ limit }] },
        mark: { type: "rule", color: COLOURS.ink, strokeDash: [6, 4], strokeWidth: 1.4 },
        encoding: { y: { ...y, field: "limit" } },
      },
      {
        data: { values: [{ case: before + 0.5 }] },
        mark: { type: "rule", color: COLOURS.ink, strokeDash: [2, 3], strokeWidth: 1.6 },
        encoding: { x: { ...x, field: "case" } },
      },
    ],
  };

  function heading({ delay, falseAlarms }: AlarmStream): string {
    const names = watched.map((name) => SCORES[name].short ?? SCORES[name].title).join(" and ");
    const early = `too early in ${percent(falseAlarms)}`;
    const off = delay === null ? "off in fewer than half of the orders" : `off after ${delay} shifted images, ${early}`;
    return `${short(method)}: ${names} · ${off}`;
  }
}
