/** One mark of a {@link scatterChart}. */
export interface ScatterPoint {
  x: number;
  y: number;
  /** Which of `groups` it belongs to. */
  group: string;
  /** Shown when pointed at. */
  title: string;
  /** A short text beside the mark, which gets a ring. */
  label?: string;
}

/** Shapes of marks, so that groups are told apart without colour; drawn around (0, 0), about 9 units wide. */
const marks = [
  '<circle r="4.2"/>',
  '<path d="M-4-4H4V4H-4Z"/>',
  '<path d="M0-5.2L5 3.8H-5Z"/>',
  '<path d="M-4.4-4.4L4.4 4.4M4.4-4.4L-4.4 4.4" fill="none" stroke-width="2.2"/>',
];

/**
 * The agreement of neighbouring layers, from shallow to deep, with the area under it shaded: that area is AULA
 * (SPEC §6: trapezoids of unit width).
 * @param agreements K-1 values in [0, 1]
 * @returns an SVG element; colours come from the page's custom properties
 */
export function agreementChart(agreements: readonly number[], title: string): string {
  const frame = { left: 52, right: 390, top: 14, bottom: 188, width: 400, height: 236 };
  const n = agreements.length;
  const px = (i: number) => frame.left + ((frame.right - frame.left) * i) / Math.max(1, n - 1);
  const py = (value: number) => frame.bottom - (frame.bottom - frame.top) * value;
  const points = agreements.map((value, i) => `${round(px(i))},${round(py(value))}`);
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((value) => gridLine(frame, py(value), value === 0 ? "0" : String(value)));
  const names = agreements.map((_, i) => {
    return `<text x="${round(px(i))}" y="${frame.bottom + 16}" text-anchor="middle">${i + 1}–${i + 2}</text>`;
  });
  const dots = agreements.map((value, i) => {
    const text = `layers ${i + 1} and ${i + 2}: ${value.toFixed(3)}`;
    return `<circle cx="${round(px(i))}" cy="${round(py(value))}" r="3.4"><title>${text}</title></circle>`;
  });
  const area = `${px(0)},${frame.bottom} ${points.join(" ")} ${px(n - 1)},${frame.bottom}`;
  return svg(frame, title, [
    ...ticks,
    `<polygon class="area" points="${area}"/>`,
    `<polyline class="curve" points="${points.join(" ")}"/>`,
    `<g class="dots">${dots.join("")}</g>`,
    ...names,
    axisTitle((frame.left + frame.right) / 2, frame.height - 6, "neighbouring layers, shallow to deep"),
    sideTitle(11, (frame.top + frame.bottom) / 2, "agreement (Dice)"),
  ]);
}

/**
 * Marks at (x, y), one shape and colour for each group, with grid, axes and a legend.
 * @returns an SVG element; colours come from the page's custom properties --group-1, --group-2, …
 */
export function scatterChart(
  points: readonly ScatterPoint[],
  options: {
    title: string;
    x: string;
    y: string;
    xRange: readonly [number, number];
    groups: readonly string[];
  },
): string {
  const { groups, xRange } = options;
  const frame = { left: 52, right: 390, top: 34, bottom: 300, width: 400, height: 346 };
  const px = (x: number) => frame.left + ((frame.right - frame.left) * (x - xRange[0])) / (xRange[1] - xRange[0]);
  const py = (y: number) => frame.bottom - (frame.bottom - frame.top) * y;
  const mark = (group: number, x: number, y: number, inner: string) =>
    `<g class="mark group-${group + 1}" transform="translate(${round(x)} ${round(y)})">${marks[group % marks.length]}${inner}</g>`;
  const legendWidth = (frame.right - frame.left) / Math.max(4, groups.length);
  const legend = groups.map((group, i) => {
    const x = frame.left + 6 + i * legendWidth;
    return `${mark(i, x, 14, "")}<text x="${round(x + 10)}" y="18">${escapeHtml(group)}</text>`;
  });
  const xTicks = niceTicks(xRange).map((value) => {
    const x = round(px(value));
    const text = `<text x="${x}" y="${frame.bottom + 16}" text-anchor="middle">${value}</text>`;
    return `<line class="grid" x1="${x}" x2="${x}" y1="${frame.top}" y2="${frame.bottom}"/>${text}`;
  });
  const yTicks = [0, 0.25, 0.5, 0.75, 1].map((value) => gridLine(frame, py(value), String(value)));
  const drawn = points.map(({ x, y, group, title }) =>
    mark(groups.indexOf(group), px(x), py(y), `<title>${escapeHtml(title)}</title>`),
  );
  const labels = points.flatMap(({ x, y, label }) => {
    if (label === undefined) return [];
    const [cx, cy] = [px(x), py(y)];
    // Labels lie off the crowd: towards the middle of the chart, with a line to their mark.
    const [dx, dy] = [cx > (frame.left + frame.right) / 2 ? -1 : 1, y > 0.5 ? 1 : -1];
    const line = `<path class="ring" d="M${round(cx + 5 * dx)} ${round(cy + 7 * dy)}l${14 * dx} ${24 * dy}"/>`;
    const at = `x="${round(cx + 21 * dx)}" y="${round(cy + 38 * dy + (dy > 0 ? 6 : 0))}"`;
    const text = `<text class="label" ${at} text-anchor="${dx < 0 ? "end" : "start"}">${escapeHtml(label)}</text>`;
    return [`<circle class="ring" cx="${round(cx)}" cy="${round(cy)}" r="8.5"/>${line}${text}`];
  });
  return svg(frame, options.title, [
    ...legend,
    ...xTicks,
    ...yTicks,
    ...drawn,
    ...labels,
    axisTitle((frame.left + frame.right) / 2, frame.height - 8, options.x),
    sideTitle(11, (frame.top + frame.bottom) / 2, options.y),
  ]);
}

/** Round values, about five, inside a range. */
export function niceTicks([low, high]: readonly [number, number]): number[] {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough)!;
  const ticks: number[] = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++)
    ticks.push(Number((i * step).toFixed(10)));
  return ticks;
}

/** Text that is safe inside an element or a quoted attribute. */
export function escapeHtml(text: string): string {
  const entities: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  return text.replace(/[&<>"']/g, (char) => entities[char]!);
}

interface Frame {
  left: number;
  right: number;
  top: number;
  bottom: number;
  width: number;
  height: number;
}

function svg({ width, height }: Frame, title: string, parts: readonly string[]): string {
  const label = escapeHtml(title);
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${label}">${parts.join("")}</svg>`;
}

function gridLine(frame: Frame, y: number, text: string): string {
  const line = `<line class="grid" x1="${frame.left}" x2="${frame.right}" y1="${round(y)}" y2="${round(y)}"/>`;
  return `${line}<text x="${frame.left - 7}" y="${round(y + 4)}" text-anchor="end">${text}</text>`;
}

function axisTitle(x: number, y: number, text: string): string {
  return `<text class="axis" x="${round(x)}" y="${y}" text-anchor="middle">${escapeHtml(text)}</text>`;
}

function sideTitle(x: number, y: number, text: string): string {
  return `<text class="axis" transform="translate(${x} ${round(y)}) rotate(-90)" text-anchor="middle">${escapeHtml(text)}</text>`;
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
