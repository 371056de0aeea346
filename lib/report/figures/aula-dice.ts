import type { Comparison } from "../../results/comparison.js";
import { drawChart } from "./chart.js";
import type { Figure } from "./figure.js";
import { firstRun, fixed } from "./select.js";
import { COLOURS, WIDTH } from "./theme.js";

const groups = [
  { name: "good enough", colour: COLOURS.main, shape: "circle" },
  { name: "failed", colour: COLOURS.against, shape: "triangle-up" },
  { name: "nothing found by any head", colour: COLOURS.ink, shape: "cross" },
] as const;

/** Figure 5: AULA against Dice, failed images marked, with the lines of failure and, where one was chosen, of flagging. */
export async function aulaDiceFigure(comparison: Comparison): Promise<Figure | undefined> {
  const run = firstRun(comparison, "le");
  const { tau } = comparison;
  const values = (run?.images ?? []).flatMap(({ id, aula, dice, empty }) => {
    if (aula === null || dice === null) return [];
    return [{ id, aula, dice, group: groups[empty ? 2 : dice < tau ? 1 : 0].name }];
  });
  if (!run || values.length === 0) return undefined;
  const threshold = comparison.shift?.rows.find((row) => row.method === "le" && row.confidence === "aula")
    ?.thresholds[0];
  const present = groups.filter((group) => values.some((value) => value.group === group.name));
  const names = present.map((group) => group.name);
  const top = run.heads.length - 2;
  const low = Math.min(...values.map((value) => value.aula), threshold ?? top);
  const domain = [Math.max(0, Math.floor((low - 0.02 * top) * 4) / 4), top];
  const x = {
    field: "aula",
    type: "quantitative",
    title: `AULA (at most ${top})`,
    scale: { domain, nice: false },
    axis: { tickCount: 8 },
  };
  const y = { field: "dice", type: "quantitative", title: "Dice with the truth", scale: { domain: [0, 1] } };
  const halo = { stroke: COLOURS.page, strokeWidth: 4, strokeJoin: "round" };
  const line = { type: "rule", color: COLOURS.ink, strokeDash: [6, 4], strokeWidth: 1.4 };
  const label = (mark: object, encoding: object) =>
    [halo, {}].map((style) => ({
      data: { values: [{}] },
      mark: { type: "text", align: "left", ...mark, ...style },
      encoding,
    }));
  const flags = threshold !== null && threshold !== undefined;
  const middle = (domain[0]! + top) / 2;
  const title = "AULA against Dice";
  const svg = await drawChart(
    {
      width: WIDTH,
      height: 380,
      autosize: { type: "fit", contains: "padding" },
      data: { values },
      layer: [
        {
          mark: { type: "point", filled: true, opacity: 0.7, size: values.length > 300 ? 40 : 70 },
          encoding: {
            x,
            y,
            color: {
              field: "group",
              type: "nominal",
              title: null,
              scale: { domain: names, range: present.map((group) => group.colour) },
            },
            shape: {
              field: "group",
              type: "nominal",
              title: null,
              scale: { domain: names, range: present.map((group) => group.shape) },
            },
          },
        },
        { data: { values: [{}] }, mark: line, encoding: { y: { datum: tau } } },
        ...(flags ? [{ data: { values: [{}] }, mark: line, encoding: { x: { datum: threshold } } }] : []),
        // Not across the other line, where that is near.
        ...label(
          { text: `failed below Dice ${tau}`, dx: 6, dy: 11 },
          { x: flags && threshold < middle ? { datum: threshold } : { value: 0 }, y: { datum: tau } },
        ),
        ...(flags
          ? label(
              {
                text: `flagged below AULA ${fixed(threshold, 2)}`,
                dy: -9,
                ...(threshold > middle ? { align: "right", dx: -6 } : { dx: 6 }),
              },
              { x: { datum: threshold }, y: { datum: 0 } },
            )
          : []),
      ],
    },
    title,
  );
  return {
    name: "figure-5a-aula-dice",
    title,
    caption: `One mark for each image, first seed of LE. AULA needs no truth. If it tells failures, the failed images lie to the left; failed images far to the right are those that it misses.${flags ? " Left of the vertical line an image is flagged." : ""}`,
    svg,
  };
}
