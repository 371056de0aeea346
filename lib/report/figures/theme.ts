/**
 * The colours of all figures. In a file of its own a figure has these, which suit a white page; inside the report they
 * become custom properties (see {@link inline}), so that the page sets them for light and for dark. Each value occurs once.
 */
export const COLOURS = {
  page: "#ffffff",
  ink: "#1d2326",
  soft: "#5a6469",
  grid: "#dddad4",
  /** The subject of a figure: the method's own curve, images in distribution, images that are good enough. */
  main: "#0072b2",
  /** What stands against it: failures, images out of distribution. */
  against: "#c45500",
  ideal: "#00795a",
} as const;

/** The same for a dark page. */
export const DARK_COLOURS: Readonly<Record<keyof typeof COLOURS, string>> = {
  page: "#14181a",
  ink: "#e8e6e1",
  soft: "#a8b1b5",
  grid: "#363f43",
  main: "#5fb8ee",
  against: "#f2934a",
  ideal: "#3ecfa5",
};

/** Arimo has the widths of Arial and Helvetica. It is what PNG files are set in; a page takes what its reader has. */
export const FONT = "Arimo, Arial, Helvetica, sans-serif";

/** Width of a figure, in pixels at its own size. */
export const WIDTH = 600;

/** Widths of the characters 32 to 126 in {@link FONT}, in thousandths of its size (hmtx table of Arimo). */
const widths = [
  278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556, 556, 556,
  556, 556, 556, 278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833,
  722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556, 333, 556, 556, 500, 556,
  556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556, 556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334,
  260, 334, 584,
];

/** Some systems have none of these fonts, and their own is wider. */
const spare = 1.15;

/** Room that a text needs, in pixels; a character outside ASCII counts as a digit. */
export function textWidth(text: string, size: number): number {
  let sum = 0;
  for (const character of text) sum += widths[character.charCodeAt(0) - 32] ?? 556;
  return (spare * sum * size) / 1000;
}

/** The text, cut with an ellipsis where it is wider than `room` pixels: at its end, or at its start, where names differ less. */
export function fitted(text: string, size: number, room: number, cut: "end" | "start" = "end"): string {
  let kept = text;
  while (kept && textWidth(kept === text ? text : `${kept}…`, size) > room)
    kept = cut === "end" ? kept.slice(0, -1) : kept.slice(1);
  if (kept === text) return text;
  return cut === "end" ? `${kept.trimEnd()}…` : `…${kept}`;
}

/**
 * A figure's SVG made fit to stand inside a page: its colours become `var(--ink)` and so on, and its identifiers get the
 * figure's name before them, for those of several figures must not meet.
 */
export function inline(svg: string, name: string): string {
  const properties = new Map(Object.entries(COLOURS).map(([role, colour]) => [colour as string, `var(--${role})`]));
  return svg
    .replace(/\bid="([^"]+)"/g, `id="${name}-$1"`)
    .replace(/url\(#([^)]+)\)/g, `url(#${name}-$1)`)
    .replace(/(?<==")#[0-9a-f]{6}(?=")/gi, (colour) => properties.get(colour.toLowerCase()) ?? colour);
}

/** The custom properties of {@link inline}, as CSS declarations. */
export function colourProperties(scheme: "light" | "dark"): string {
  const colours: Record<string, string> = scheme === "light" ? COLOURS : DARK_COLOURS;
  return Object.entries(colours)
    .map(([role, colour]) => `--${role}: ${colour};`)
    .join(" ");
}
