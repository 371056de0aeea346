import type { AlarmStream, Comparison } from "../../results/comparison.js";
import { percent } from "../../results/format.js";
import { SCORES } from "../../scores/scores.js";
import { type ChartSpec, drawChart } from "./chart.js";
import type { Figure } from "./figure.js";
import { short } from "./select.js";
import { COLOURS } from "./theme.js";

/** Of images before and after the change. */
const KINDS = ["in distribution", "shifted"] as const;

/** Values are drawn between these: the lower as it is, the upper in limits. */
const DRAWN = { least: 1e-3, limits: 1e3 } as const;

/** A martingale as it is drawn. */
interface Drawn {
  title: string;
  limit: number;
  /** After each image. */
  values: readonly number[];
  /** Where it lies in most orders. */
  band?: { low: readonly number[]; high: readonly number[] };
  /** Images before the change. */
  before?: number;
}

/** Figure 7c: the martingale of the alarm over a stream that begins to differ, of each method. */
export async function streamFigure({ shift }: Comparison): Promise<Figure | undefined> {
  const streams = shift?.streams ?? [];
  const [first] = streams;
  if (!first) return undefined;
  const title = "The alarm over a stream that begins to differ";
  const panels = streams.map((stream) => panel({ ...stream, title: heading(stream), band: stream }));
  const svg = await drawChart({ vconcat: panels, spacing: 14 }, title);
  return {
    name: "figure-7c-stream",
    title,
    caption: `A random half of the images in distribution (${first.calibration}) calibrates the alarm; the others come one after another, and after them the shifted ones. It goes off where the martingale, the capital of bets against all being as before, reaches the dashed line; while nothing changes it does so ever in at most 1 % of streams, in whatever order. The line is one random order, the band holds 90 % of ${first.orders}. Images come singly: a patient's slices one after another are no such stream. First seed of each method.`,
    svg,
  };
}

/** The martingale of a certificate's alarm over images in their order. @returns an SVG document */
export async function alarmFigure({
  values,
  limit,
  firedAt,
}: {
  values: readonly number[];
  limit: number;
  firedAt: number | null;
}): Promise<string> {
  const off = firedAt === null ? "does not go off" : `goes off at image ${firedAt}`;
  const title = `The alarm over these images ${off}`;
  return drawChart(panel({ title, values, limit }), title);
}

function heading({ method, watched, delay, falseAlarms }: AlarmStream): string {
  const names = watched.map((name) => SCORES[name].short ?? SCORES[name].title).join(" and ");
  const early = `too early in ${percent(falseAlarms)}`;
  const off = delay === null ? "off in fewer than half of the orders" : `off after ${delay} shifted images, ${early}`;
  return `${short(method)}: ${names} · ${off}`;
}

function panel({ title, limit, values, band, before }: Drawn): ChartSpec {
  const drawn = (value: number) => Math.min(limit * DRAWN.limits, Math.max(DRAWN.least, value));
  const rows = values.flatMap((value, i) => {
    const row = {
      ...{ case: i + 1, value: drawn(value), kind: KINDS[before === undefined || i < before ? 0 : 1] },
      low: drawn(band?.low[i] ?? value),
      high: drawn(band?.high[i] ?? value),
    };
    // The first shifted image also ends the line before it.
    return i === before ? [{ ...row, kind: KINDS[0] }, row] : [row];
  });
  const x = {
    field: "case",
    type: "quantitative",
    title: "images of the stream",
    scale: { domain: [1, Math.max(2, values.length)], nice: false },
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
    ...(before === undefined && { legend: null }),
  };
  const ruled = (value: object, encoding: object, mark: object) => ({
    data: { values: [value] },
    mark: { type: "rule", color: COLOURS.ink, ...mark },
    encoding,
  });
  return {
    width: 500,
    height: 110,
    title: { text: title, anchor: "start", fontWeight: "normal", offset: 4 },
    data: { values: rows },
    layer: [
      ...(band
        ? [
            {
              mark: { type: "area", opacity: 0.25 },
              encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" }, color },
            },
          ]
        : []),
      { mark: { type: "line", strokeWidth: 2 }, encoding: { x, y: { ...y, field: "value" }, color } },
      ruled({ limit }, { y: { ...y, field: "limit" } }, { strokeDash: [6, 4], strokeWidth: 1.4 }),
      ...(before === undefined
        ? []
        : [ruled({ case: before + 0.5 }, { x: { ...x, field: "case" } }, { strokeDash: [2, 3], strokeWidth: 1.6 })]),
    ],
  };
}
