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
