import { overlay } from "../../pictures/render.js";
import type { Comparison, ShownImage } from "../../results/comparison.js";
import { drawChart } from "./chart.js";
import type { Figure } from "./figure.js";
import { bytesOf } from "./images.js";
import { contained, picture, svgDocument, text } from "./panels.js";
import { fixed } from "./select.js";
import { COLOURS, fitted, textWidth, WIDTH } from "./theme.js";

const margin = 10;
const gap = 6;

/** Figure 4: agreement of neighbouring heads of an easy and of a hard image, its area shaded, and what each head finds. */
export async function agreementFigure(comparison: Comparison): Promise<Figure | undefined> {
  const cases = pickCases(comparison.shown);
  if (cases.length === 0) return undefined;
  const titles = cases.map(
    ({ name, image }) => `${name}: AULA ${fixed(image.aula, 2)}, Dice ${fixed(image.dice.le, 2)}`,
  );
  const curves = await agreementCurves(
    cases.map(({ image }, i) => ({ title: titles[i]!, agreements: image.agreements! })),
    cases.length === 2 ? 244 : 510,
  );
  const [, width = WIDTH, height = 0] = /viewBox="0 0 ([\d.]+) ([\d.]+)"/.exec(curves)?.map(Number) ?? [];
  const scale = Math.min(1, WIDTH / width);
  const parts = [
    curves
      .replace("<svg ", `<svg x="0" y="0" `)
      .replace(/ width="[\d.]+" height="[\d.]+"/, ` width="${width * scale}" height="${height * scale}"`),
  ];

  let y = height * scale + 6;
  for (const { name, image } of cases) {
    parts.push(
      text(fitted(`${name}: ${image.id}, head by head`, 13, WIDTH - 2 * margin), margin, y + 14, { bold: true }),
    );
    y += 22;
    const columns = Math.min(image.heads.length, Math.max(4, Math.min(6, Math.ceil(image.heads.length / 2))));
    const cell = (WIDTH - 2 * margin - gap * (columns - 1)) / columns;
    const size = contained(image, { width: Math.min(cell, 150), height: Math.min(cell, 150) });
    const enlargement = Math.max(1, Math.ceil((2 * size.width) / image.width));
    for (const [k, head] of image.heads.entries()) {
      const left = margin + (k % columns) * (cell + gap) + (cell - size.width) / 2;
      const drawn = overlay(bytesOf(image, image.image), {
        scale: enlargement,
        truth: bytesOf(image, image.truth),
        prediction: bytesOf(image, head.mask),
        lineWidth: Math.max(1, (1.3 * enlargement * image.width) / (2 * size.width)),
        tint: 0.25,
      });
      parts.push(await picture(drawn, left, y, size));
      const number = `${k + 1}  `;
      const label = number + fitted(head.name, 11, cell - textWidth(number, 11), "start");
      parts.push(text(label, left + size.width / 2, y + size.height + 13, { anchor: "middle", size: 11 }));
      if (k % columns === columns - 1 || k === image.heads.length - 1) y += size.height + 20;
    }
    y += 6;
  }
  const title = "Agreement of neighbouring heads";
  return {
    name: "figure-4-agreement",
    title,
    caption:
      "Each point compares what two neighbouring heads find, shallow to deep, in the images shown that have the highest and the lowest AULA: 1 is the same, 0 is nothing in common. The shaded area is AULA. Below, the outline of every head (orange) on the truth (cyan): where the curve is low, the outlines change from head to head.",
    svg: svgDocument({ width: WIDTH, height: y + 2 }, title, parts),
  };
}

/** The images of highest and of lowest AULA among those shown; an image where no head finds anything only if there is no other. */
function pickCases(shown: readonly ShownImage[]): { name: string; image: ShownImage }[] {
  const usable = shown.filter(
    (image) => image.aula !== null && image.heads.length > 0 && (image.agreements?.length ?? 0) > 1,
  );
  const found = usable.filter((image) =>
    image.heads.some((head) => bytesOf(image, head.mask).data.some((label) => label > 0)),
  );
  const sorted = (found.length > 1 ? found : usable).toSorted((a, b) => b.aula! - a.aula!);
  const [agreeing, disagreeing] = [sorted[0], sorted.at(-1)];
  if (!agreeing || !disagreeing) return [];
  return agreeing === disagreeing
    ? [{ name: "Heads", image: agreeing }]
    : [
        { name: "Heads agree", image: agreeing },
        { name: "Heads disagree", image: disagreeing },
      ];
}

/**
 * The agreement of neighbouring heads, from shallow to deep, with the area under it shaded: that area is AULA (SPEC §6:
 * trapezoids of unit width).
 * @param curves each with its title and K-1 agreements in [0, 1]
 * @param width of each, between its axes
 * @param compared what the axis calls them
 * @returns an SVG document
 */
export function agreementCurves(
  curves: readonly { title: string; agreements: readonly number[] }[],
  width: number,
  compared = "heads",
): Promise<string> {
  const values = curves.flatMap(({ title, agreements }) =>
    agreements.map((agreement, j) => ({ panel: title, pair: j + 1, agreement })),
  );
  const pairs = Math.max(...values.map((value) => value.pair));
  const x = {
    field: "pair",
    type: "quantitative",
    title: `${compared} compared, shallow to deep`,
    scale: { domain: [1, pairs], nice: false },
    axis: {
      tickMinStep: 1,
      tickCount: Math.min(pairs, 7),
      format: "d",
      labelExpr: "datum.value + '–' + (datum.value + 1)",
      grid: false,
      labelFontSize: 12,
      labelOverlap: "parity",
    },
  };
  const y = {
    field: "agreement",
    type: "quantitative",
    title: "agreement (Dice)",
    scale: { domain: [0, 1] },
    axis: { tickCount: 5 },
  };
  return drawChart(
    {
      data: { values },
      spacing: 22,
      facet: { column: { field: "panel", type: "nominal", sort: curves.map(({ title }) => title), title: null } },
      spec: {
        width,
        height: 150,
        layer: [
          { mark: { type: "area", color: COLOURS.main, opacity: 0.2 }, encoding: { x, y } },
          {
            mark: {
              type: "line",
              color: COLOURS.main,
              strokeWidth: 2.4,
              clip: false,
              point: { filled: true, color: COLOURS.main, size: 45 },
            },
            encoding: { x, y },
          },
        ],
      },
    },
    `Agreement of neighbouring ${compared}`,
  );
}
