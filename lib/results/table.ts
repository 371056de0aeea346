// A table: its columns are declared once, and printed as text, as a file of values and as HTML.
import { csvText, distinctNames } from "../data/csv.js";
import type { Estimate, MeanEstimate } from "./comparison.js";
import { bracketed, fixed, typeset } from "./format.js";
import { escapeHtml } from "./html.js";
import { formatTable } from "./text.js";

/** What a cell says: text, a number, or a statistic with what is known of it. */
export type Value = string | number | null | Statistic;

type Statistic = Pick<Estimate, "value" | "low" | "high"> & Partial<Pick<MeanEstimate, "sd" | "n" | "leftOut">>;

/** A column of a {@link Table}. */
export interface Column<Row> {
  /** What stands over it. */
  head: string;
  /** Which of its values are better; the best is marked on a page. */
  better?: "high" | "low" | undefined;
  /** How a number is shown. @default three decimals */
  format?: (value: number, row: Row) => string;
  /** What else is said of a row, in small. */
  note?: (row: Row) => string;
  /** What it is called in a file; without a name it is in none. */
  csv?: string;
  /** Whether its interval is in files too, as `_low` and `_high`. */
  bounds?: boolean;
  /** The terminal is narrow: not there, or there without its interval. */
  page?: "column" | "interval";
  of(row: Row): Value;
}

/** A table. */
export interface Table<Row> {
  caption: string;
  /** Neighbouring rows of the same group stand under its name. */
  group?: { head: string; of(row: Row): string };
  /** The column that names a row. */
  name: { head: string; of(row: Row): string };
  columns: readonly Column<Row>[];
  rows: readonly Row[];
}

/** A cell, or one that nothing is in. */
export type CsvCell = string | number | null | undefined;

interface Shown {
  text: string;
  /** The interval, and what else is said in small. */
  detail: string;
  /** What the best is found by. */
  value: number | null;
}

const statistic = (value: Exclude<Value, string>): Statistic =>
  typeof value === "object" && value !== null ? value : { value, low: null, high: null };

function show<Row>({ of, format = (value) => fixed(value), note }: Column<Row>, row: Row): Shown {
  const said = note?.(row) ?? "";
  const cell = of(row);
  if (typeof cell === "string") return { text: cell, detail: said, value: null };
  const { value, low, high, sd = null, n, leftOut = 0 } = statistic(cell);
  if (value === null || Number.isNaN(value)) return { text: "–", detail: said, value: null };
  const as = (number: number) => format(number, row);
  const detail = [bracketed(low, high, as), leftOut > 0 ? `${n} images` : "", said].filter(Boolean).join(" ");
  return { text: as(value) + (sd === null ? "" : ` ± ${as(sd)}`), detail, value };
}

/** For the terminal. @param ends of how many rows at either end it is, where the table is long; dots are between */
export function toText<Row>({ group, name, columns, rows }: Table<Row>, ends?: number): string {
  const shown = columns.filter(({ page }) => page !== "column");
  const lead = group ? [group, name] : [name];
  const lines = rows.map((row, i) => [
    ...(group ? [i > 0 && group.of(rows[i - 1] as Row) === group.of(row) ? "" : group.of(row)] : []),
    name.of(row),
    ...shown.map((column) => {
      const { text, detail } = show(column, row);
      return detail && column.page !== "interval" ? `${text} ${detail}` : text;
    }),
  ]);
  return formatTable(
    [
      ...lead.map(({ head }) => ({ heading: head, align: "left" as const })),
      ...shown.map(({ head }) => ({ heading: head })),
    ],
    ends !== undefined && lines.length > 2 * ends + 2 ? [...lines.slice(0, ends), null, ...lines.slice(-ends)] : lines,
  );
}

/**
 * The columns that have a name in files, after those that say which row it is; of one name, as data may have it, the second is
 * called " (2)". Numbers are not rounded; an empty cell is what is not defined.
 */
export function toCsv<Row>({ columns, rows }: Table<Row>, lead: Record<string, (row: Row) => CsvCell>): string {
  const named = columns.filter(({ csv }) => csv !== undefined);
  return csvOf(
    distinctNames([
      ...Object.keys(lead),
      ...named.flatMap(({ csv = "", bounds }) => (bounds ? [csv, `${csv}_low`, `${csv}_high`] : [csv])),
    ]),
    rows.map((row) => [
      ...Object.values(lead).map((of) => of(row)),
      ...named.flatMap(({ of, bounds }): CsvCell[] => {
        const cell = of(row);
        if (typeof cell === "string") return [cell];
        const { value, low, high } = statistic(cell);
        return bounds ? [value, low, high] : [value];
      }),
    ]),
  );
}

/** Rows of a file of values. */
export function csvOf(header: readonly string[], rows: readonly (readonly CsvCell[])[]): string {
  return csvText(
    header,
    rows.map((row) => row.map((cell) => (cell === null || cell === undefined || Number.isNaN(cell) ? "" : cell))),
  );
}

/** For a page; empty for a table without rows. */
export function toHtml<Row>({ caption, group, name, columns, rows }: Table<Row>): string {
  if (rows.length === 0) return "";
  const cells = rows.map((row) => columns.map((column) => show(column, row)));
  const best = columns.map(({ better }, j) => {
    const values = cells.map((row) => (row[j] as Shown).value).filter((value) => value !== null);
    if (!better || new Set(values).size < 2) return undefined;
    return better === "high" ? Math.max(...values) : Math.min(...values);
  });
  const heads = [name, ...columns].map(({ head }) => `<th scope="col">${escapeHtml(head)}</th>`);
  const body = rows.map((row, i) => {
    const title = group?.of(row);
    const isFirst = title !== undefined && (i === 0 || group?.of(rows[i - 1] as Row) !== title);
    const over = isFirst
      ? `<tr class="group"><th scope="rowgroup" colspan="${columns.length + 1}">${escapeHtml(title)}</th></tr>\n`
      : "";
    const values = (cells[i] as Shown[]).map((cell, j) => td(cell, cell.value !== null && cell.value === best[j]));
    return `${over}<tr><th scope="row">${escapeHtml(name.of(row))}</th>${values.join("")}</tr>`;
  });
  return `<div class="scroll" role="region" tabindex="0" aria-label="${escapeHtml(caption)}"><table>
<caption>${escapeHtml(caption)}</caption>
<thead><tr>${heads.join("")}</tr></thead>
<tbody>
${body.join("\n")}
</tbody></table></div>`;
}

function td({ text, detail }: Shown, best: boolean): string {
  const shown = escapeHtml(typeset(text));
  const marked = best ? `<b>${shown}<span class="best" title="best of the column"> ★</span></b>` : shown;
  return `<td>${marked}${detail ? `<small>${escapeHtml(typeset(detail))}</small>` : ""}</td>`;
}
