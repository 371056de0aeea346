/** A column of a table: its heading, and how its cells line up. */
export interface Column {
  heading: string;
  /** @default "right" */
  align?: "left" | "right";
}

/**
 * Lays out rows under headings with a rule between, two spaces between columns, no colours and no trailing blanks.
 * A row `null` is a line of dots: rows were left out there.
 */
export function formatTable(columns: readonly Column[], rows: readonly (readonly string[] | null)[]): string {
  const widths = columns.map(({ heading }, i) =>
    Math.max(width(heading), ...rows.map((row) => (row === null ? 1 : width(row[i] ?? "")))),
  );
  const line = (cells: readonly string[]) =>
    columns
      .map(({ align = "right" }, i) => {
        const cell = cells[i] ?? "";
        const blank = " ".repeat((widths[i] as number) - width(cell));
        return align === "left" ? cell + blank : blank + cell;
      })
      .join("  ")
      .trimEnd();
  return [
    line(columns.map(({ heading }) => heading)),
    widths.map((n) => "─".repeat(n)).join("  "),
    ...rows.map((row) => line(row ?? columns.map(() => "…"))),
  ]
    .map((text) => `${text}\n`)
    .join("");
}

/** Code points; combining marks take no room. */
function width(text: string): number {
  return [...text.replace(/\p{M}/gu, "")].length;
}

/** A number with so many decimals, `–` where there is none. */
export function fixed(value: number | null | undefined, decimals = 3): string {
  return value === null || value === undefined || Number.isNaN(value) ? "–" : value.toFixed(decimals);
}

/** Thousands separated by a comma. */
export function grouped(value: number): string {
  return value.toLocaleString("en-US");
}

/** Seconds as `8 s`, `2:05` or `1:02:05`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "–";
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const two = (n: number) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}
