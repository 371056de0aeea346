import { colourMap, predictionColour, truthColour } from "../../pictures/colours.js";
import { heatMap, overlay } from "../../pictures/render.js";
import type { Comparison, ShownImage } from "../../results/comparison.js";
import type { MethodName } from "../../runs/methods.js";
import type { Figure } from "./figure.js";
import { bytesOf, floatsOf } from "./images.js";
import { contained, picture, round, type Size, svgDocument, text } from "./panels.js";
import { fixed, short } from "./select.js";
import { COLOURS, fitted, WIDTH } from "./theme.js";

const margin = 10;
const gap = 8;

/**
 * Figure 1: images, outlines of truth and prediction, and entropy maps on one scale: those of LE and of DE where both are
 * there, else of the methods that are.
 */
export async function mapsFigure(comparison: Comparison): Promise<Figure | undefined> {
  const { shown } = comparison;
  if (shown.length === 0) return undefined;
  const methods = comparison.methods.map((result) => result.method);
  const withMaps = methods.filter((method) => shown.some((image) => image.entropy[method] !== undefined));
  const pair = (["le", "de"] as const).filter((method) => withMaps.includes(method));
  const mapped: MethodName[] = [...pair, ...withMaps.filter((method) => method !== "le" && method !== "de")].slice(
    0,
    2,
  );
  const drawn = (["le", "de", ...methods] as const).find((method) => shown.some((image) => image.masks[method]));
  const top = Math.max(
    1e-6,
    ...shown.flatMap((image) =>
      mapped.map((method) => largest(image.entropy[method] ? floatsOf(image, image.entropy[method]).data : [])),
    ),
  );

  const columns = [
    "image",
    drawn ? `truth and ${short(drawn)}` : "truth",
    ...mapped.map((method) => `entropy, ${short(method)}`),
  ];
  const cell = (WIDTH - 2 * margin - gap * (columns.length - 1)) / columns.length;
  const box: Size = { width: Math.min(cell, 200), height: Math.min(cell, 200) };
  const x = (column: number) => margin + column * (cell + gap);
  const parts: string[] = columns.map((name, i) => text(name, x(i) + cell / 2, 20, { anchor: "middle", bold: true }));
  let y = 32;
  for (const image of shown) {
    const size = contained(image, box);
    parts.push(
      text(
        fitted(heading(image, drawn ? [...new Set([drawn, ...mapped])] : mapped), 13, WIDTH - 2 * margin),
        margin,
        y + 14,
      ),
    );
    y += 22;
    const scale = Math.max(1, Math.ceil((2 * size.width) / image.width));
    const grey = bytesOf(image, image.image);
    const mask = drawn && image.masks[drawn];
    const pictures = [
      overlay(grey, { scale }),
      overlay(grey, {
        scale,
        truth: bytesOf(image, image.truth),
        ...(mask && { prediction: bytesOf(image, mask) }),
        lineWidth: Math.max(1, (1.5 * scale * image.width) / (2 * size.width)),
      }),
      ...mapped.map((method) => {
        const map = image.entropy[method];
        return map === undefined ? undefined : heatMap(floatsOf(image, map), { range: [0, top], scale });
      }),
    ];
    for (const [column, shownPicture] of pictures.entries()) {
      const left = x(column) + (cell - size.width) / 2;
      if (shownPicture) parts.push(await picture(shownPicture, left, y, size));
      else parts.push(text("–", left + size.width / 2, y + size.height / 2, { anchor: "middle" }));
    }
    y += size.height + 12;
  }
  parts.push(key(margin, y + 8, css(truthColour), "truth"));
  if (drawn) parts.push(key(margin + 84, y + 8, css(predictionColour), short(drawn)));
  if (mapped.length > 0) parts.push(colourBar(x(2), y, WIDTH - margin - x(2), top));
  const title = `Outlines and uncertainty of ${shown.length} chosen image${shown.length === 1 ? "" : "s"}`;
  const maps = mapped.map(short).join(" and ");
  return {
    name: "figure-1-maps",
    title,
    caption: `${drawn ? `Outline of the truth (cyan) and of ${short(drawn)} (orange). ` : ""}${mapped.length > 0 ? `Entropy of ${maps} in nats, all on one scale: bright where the method is unsure. Look whether the bright places are where the two outlines part.` : ""}`,
    svg: svgDocument({ width: WIDTH, height: y + 36 }, title, parts),
  };
}

/** "Worst, least certain: case-12. Dice LE 0.31, DE 0.44. AULA 3.20" */
function heading(image: ShownImage, methods: readonly MethodName[]): string {
  const why = image.why.join(", ");
  const dice = methods.flatMap((method) =>
    image.dice[method] === undefined ? [] : [`${short(method)} ${fixed(image.dice[method], 2)}`],
  );
  const parts = [`${why.charAt(0).toUpperCase()}${why.slice(1)}: ${image.id}`];
  if (dice.length > 0) parts.push(`Dice ${dice.join(", ")}`);
  if (image.aula !== null) parts.push(`AULA ${fixed(image.aula, 2)}`);
  return parts.join(" · ");
}

function key(x: number, y: number, colour: string, name: string): string {
  const line = `<rect x="${x}" y="${round(y - 3)}" width="24" height="6" rx="2" fill="${colour}" stroke="${COLOURS.soft}" stroke-width="0.8"/>`;
  return line + text(name, x + 30, y + 4.5);
}

function colourBar(x: number, y: number, room: number, top: number): string {
  const table = colourMap("magma");
  const stops = Array.from({ length: 17 }, (_, i) => {
    const at = Math.round((i * 255) / 16) * 3;
    return `<stop offset="${i / 16}" stop-color="${css([...table.subarray(at, at + 3)])}"/>`;
  });
  const gradient = `<defs><linearGradient id="magma">${stops.join("")}</linearGradient></defs>`;
  const bar = `<rect x="${round(x)}" y="${round(y)}" width="${round(room)}" height="12" fill="url(#magma)" stroke="${COLOURS.soft}" stroke-width="0.8"/>`;
  return [
    gradient,
    bar,
    text("0", x, y + 27),
    text("entropy (nats)", x + room / 2, y + 27, { anchor: "middle" }),
    text(fixed(top, 2), x + room, y + 27, { anchor: "end" }),
  ].join("");
}

function css(colour: readonly number[]): string {
  return `rgb(${colour.join(",")})`;
}

function largest(values: ArrayLike<number>): number {
  let found = 0;
  for (let i = 0; i < values.length; i++) if (values[i]! > found) found = values[i]!;
  return found;
}
