import type { Config, TopLevelSpec } from "vega-lite";
import { escapeHtml } from "../../results/html.js";
import { COLOURS, FONT, textWidth } from "./theme.js";

/** A chart in the grammar of Vega-Lite: a `TopLevelSpec`, whose own type is too large to build one from parts. */
export type ChartSpec = Readonly<Record<string, unknown>>;

/** One panel of {@link panelGrid}. */
export interface Panel {
  /** One line or several. */
  title: string | readonly string[];
  data: readonly object[];
}

/**
 * Small multiples in rows, with the names of the axes at the left and at the bottom alone. (Vega-Lite's own facets draw
 * axes under places of the last row that stay empty.)
 * @param spec makes a panel's view of the given width from encodings that leave axes' names out where those are not wanted
 */
export function panelGrid(
  panels: readonly Panel[],
  axes: { x: Readonly<Record<string, unknown>>; y: Readonly<Record<string, unknown>> },
  view: (axes: { x: object; y: object }) => ChartSpec,
  heights: { single: number; several: number },
): ChartSpec {
  const columns = Math.min(panels.length, panels.length > 4 ? 3 : 2);
  const width = Math.floor((516 - (columns - 1) * 40) / columns);
  return {
    columns,
    spacing: { row: 14, column: 12 },
    concat: panels.map(({ title, data }, i) => ({
      title: { text: title, fontWeight: "normal", anchor: "middle", offset: 6 },
      width,
      height: columns === 1 ? heights.single : heights.several,
      data: { values: data },
      ...view({
        x: i + columns < panels.length ? { ...axes.x, title: null } : axes.x,
        y: i % columns > 0 ? { ...axes.y, title: null } : axes.y,
      }),
    })),
  };
}

const config: Config = {
  font: FONT,
  aria: false,
  background: COLOURS.page,
  padding: 8,
  view: { stroke: COLOURS.soft, strokeOpacity: 0.5 },
  axis: {
    labelFontSize: 13,
    titleFontSize: 14,
    titleFontWeight: "normal",
    titlePadding: 8,
    labelColor: COLOURS.ink,
    titleColor: COLOURS.ink,
    gridColor: COLOURS.grid,
    domainColor: COLOURS.soft,
    tickColor: COLOURS.soft,
    labelOverlap: "greedy",
    labelFlush: false,
  },
  legend: {
    orient: "top",
    direction: "horizontal",
    labelFontSize: 13,
    labelColor: COLOURS.ink,
    titleColor: COLOURS.ink,
    labelLimit: 400,
    symbolSize: 110,
    columnPadding: 18,
    offset: 6,
  },
  header: {
    labelFontSize: 13,
    labelFontWeight: "bold",
    labelColor: COLOURS.ink,
    titleColor: COLOURS.ink,
    labelLimit: 0,
  },
  title: { fontSize: 14, fontWeight: "bold", color: COLOURS.ink, subtitleColor: COLOURS.ink, subtitleFontSize: 13 },
  text: { fontSize: 13, fill: COLOURS.ink },
};

/**
 * Draws a chart, without a browser and without a network.
 * @param label what the picture is, for those who do not see it
 * @returns an SVG document
 */
export async function drawChart(spec: ChartSpec, label: string): Promise<string> {
  const [vega, vegaLite] = await Promise.all([import("vega"), import("vega-lite")]);
  // Vega's own measure, without a canvas, takes every character to be 0.8 of the font's size wide.
  const { textMetrics } = vega as unknown as {
    textMetrics: { width: (item: { fontSize?: number; text?: unknown }, text?: unknown) => number };
  };
  textMetrics.width = (item, text) => textWidth(String(text ?? item.text ?? ""), item.fontSize ?? 11);
  const logger = vega.logger(vega.Warn);
  const { spec: compiled } = vegaLite.compile(spec as unknown as TopLevelSpec, { config, logger });
  const view = new vega.View(vega.parse(compiled), { renderer: "none", logger });
  // Else identifiers count on from chart to chart, and the same numbers would not give the same file.
  vega.resetSVGDefIds();
  try {
    return labelled(await view.toSVG(), label);
  } finally {
    view.finalize();
  }
}

function labelled(svg: string, label: string): string {
  return svg.replace(/<svg /, `<svg role="img" aria-label="${escapeHtml(label)}" `);
}
