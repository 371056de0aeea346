import type { Picture } from "../../data/encode-png.js";
import { escapeHtml } from "../../results/html.js";
import { COLOURS, FONT } from "./theme.js";

/** A size in pixels. */
export interface Size {
  width: number;
  height: number;
}

/** A picture's size when it is made as large as fits into a box. */
export function contained({ width, height }: Size, box: Size): Size {
  const scale = Math.min(box.width / width, box.height / height);
  return { width: width * scale, height: height * scale };
}

/** An SVG element that shows a picture, at twice the density of `size`. */
export async function picture(shown: Picture, x: number, y: number, size: Size): Promise<string> {
  const { default: sharp } = await import("sharp");
  const { data, width, height } = shown;
  const bytes = await sharp(data, { raw: { width, height, channels: 3 } })
    .resize(Math.round(2 * size.width), Math.round(2 * size.height), { fit: "fill" })
    .jpeg({ quality: 90, chromaSubsampling: "4:4:4" })
    .toBuffer();
  const url = `data:image/jpeg;base64,${bytes.toString("base64")}`;
  return `<image x="${round(x)}" y="${round(y)}" width="${round(size.width)}" height="${round(size.height)}" preserveAspectRatio="none" href="${url}"/>`;
}

/** An SVG text element. */
export function text(
  content: string,
  x: number,
  y: number,
  options: { anchor?: "start" | "middle" | "end"; size?: number; bold?: boolean; colour?: string } = {},
): string {
  const { anchor = "start", size = 13, bold = false, colour = COLOURS.ink } = options;
  const weight = bold ? ' font-weight="bold"' : "";
  return `<text x="${round(x)}" y="${round(y)}" text-anchor="${anchor}" font-size="${size}"${weight} fill="${colour}">${escapeHtml(content)}</text>`;
}

/** An SVG document around some elements. */
export function svgDocument(size: Size, label: string, parts: readonly string[]): string {
  const [width, height] = [Math.ceil(size.width), Math.ceil(size.height)];
  return `<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="${escapeHtml(label)}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="${FONT}"><rect width="${width}" height="${height}" fill="${COLOURS.page}"/>${parts.join("")}</svg>`;
}

/** To a tenth of a pixel, as coordinates are written. */
export function round(value: number): number {
  return Math.round(value * 10) / 10;
}
