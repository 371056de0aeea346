import { METHOD_TITLES, type MethodName } from "../../ensemble/methods.js";
import { CONFIDENCES, confidenceTitle } from "../../scores/scores.js";
import type { Comparison, ConfidenceResult, Estimate, MeanEstimate, MethodResult } from "../../study/results.js";
import { escapeHtml } from "../html.js";

/** Which values of a column are better. */
type Better = "high" | "low" | "none";

/** A cell: what is shown, with a second line in small, and the number that the best of the column is found by. */
interface Cell {
  text: string;
  detail?: string;
  value?: number | null;
}

interface Column<Row> {
  head: string;
  better?: Better;
  cell: (row: Row) => Cell;
}

interface Table<Row> {
  caption: string;
  /** Neighbouring rows with the same name of a group stand under it. */
  group?: (row: Row) => string;
  /** The column that names a row. */
  name: { head: string; of: (row: Row) => string };
  columns: readonly Column<Row>[];
  rows: readonly Row[];
}

/** Table 1: quality of each method. */
export function qualityTable(comparison: Comparison): string {
  const unit = comparison.spacing.every((step) => step === 1) ? "pixels" : "unit of the spacing";
  const of = (head: string, name: keyof MethodResult["quality"], better: Better, digits: number) => ({
    head,
    better,
    cell: (method: MethodResult) => meanCell(method.quality[name], digits),
  });
  return table<MethodResult>({
    caption: "Table 1. Quality: mean ± standard deviation over images [interval of the mean]",
    name: methodName,
    columns: [
      of("Dice", "dice", "high", 3),
      of(`MHD (${unit})`, "mhd", "low", 2),
      of("nll", "nll", "low", 4),
      of("HD95", "hd95", "low", 2),
      of("ASSD", "assd", "low", 2),
      ...classColumns(comparison),
    ],
    rows: comparison.methods,
  });
}

function classColumns(comparison: Comparison): Column<MethodResult>[] {
  const names = [...new Set(comparison.methods.flatMap((method) => Object.keys(method.classDice)))];
  if (names.length < 2) return [];
  return names.map((name) => ({
    head: `Dice, ${name}`,
    better: "high",
    cell: (method) => {
      const found = method.classDice[name];
      return found ? meanCell(found, 3) : { text: "–" };
    },
  }));
}

/** LE against each other method, image by image. */
export function testsTable(comparison: Comparison): string {
  if (comparison.tests.length === 0) return "";
  const digits = { dice: 4, mhd: 3, nll: 4 };
  return table({
    caption: `Paired tests: LE minus the other method, ${comparison.bootstrap.unit} by ${comparison.bootstrap.unit}; two-sided p, not corrected for their number`,
    group: (test) => ({ dice: "Dice", mhd: "MHD", nll: "nll" })[test.measure],
    name: { head: "LE minus", of: (test) => METHOD_TITLES[test.other].short },
    columns: [
      { head: "pairs", cell: (test) => ({ text: String(test.n) }) },
      { head: "difference", cell: (test) => ({ text: signed(test.difference, digits[test.measure]) }) },
      { head: "Wilcoxon p", cell: (test) => ({ text: pValue(test.wilcoxonP) }) },
      { head: "t-test p", cell: (test) => ({ text: pValue(test.tP) }) },
    ],
    rows: (["dice", "mhd", "nll"] as const).flatMap((measure) =>
      comparison.tests.filter((test) => test.measure === measure),
    ),
  });
}

/** Table 2: rank correlation of each confidence with Dice or with MHD. */
export function correlationTable(comparison: Comparison, measure: "Dice" | "MHD"): string {
  const statistic = measure === "Dice" ? "spearmanDice" : "spearmanMhd";
  const good = measure === "Dice" ? "near 1" : "near −1";
  return table<(typeof CONFIDENCES)[number]>({
    caption: `Table 2${measure === "Dice" ? "a" : "b"}. Spearman’s correlation of confidence with ${measure} [interval]: good ${good}`,
    name: { head: "confidence", of: (confidence) => confidenceTitle(confidence) },
    columns: comparison.methods.map((method) => ({
      head: METHOD_TITLES[method.method].short,
      better: measure === "Dice" ? "high" : "low",
      cell: (confidence) => estimateCell(method.confidence[confidence]?.[statistic], 2),
    })),
    rows: CONFIDENCES,
  });
}

/** Table 3: how well each confidence of each method ranks images and finds failures. */
export function failureTable(comparison: Comparison): string {
  const rows = comparison.methods.flatMap(({ method, confidence }) =>
    CONFIDENCES.flatMap((name) => {
      const result = confidence[name];
      return result ? [{ method, name, result }] : [];
    }),
  );
  if (rows.length === 0) return "";
  const of = (head: string, name: keyof ConfidenceResult, better: Better, digits: number) => ({
    head,
    better,
    cell: (row: (typeof rows)[number]) => estimateCell(row.result[name], digits),
  });
  return table({
    caption: `Table 3. Failure detection [interval]; failed: Dice below ${comparison.tau}`,
    group: (row) => METHOD_TITLES[row.method].short,
    name: { head: "confidence", of: (row) => confidenceTitle(row.name) },
    columns: [
      of("AURC", "aurc", "low", 4),
      of("e-AURC", "eaurc", "low", 4),
      of("AUGRC", "augrc", "low", 4),
      of("AUROC", "auroc", "high", 3),
      of("FPR95", "fpr95", "low", 3),
      of("QC area", "qcArea", "low", 4),
      of("5 % remaining at", "remaining5", "low", 3),
    ],
    rows,
  });
}

/** Calibration over all pixels. */
export function calibrationTable(comparison: Comparison): string {
  return table<MethodResult>({
    caption: "Table 4. Calibration over all pixels [interval]",
    name: methodName,
    columns: [
      { head: "ECE", better: "low", cell: (method) => estimateCell(method.pooled.ece, 4) },
      { head: "Brier", better: "low", cell: (method) => estimateCell(method.pooled.brier, 4) },
      { head: "nll", better: "low", cell: (method) => estimateCell(method.pooled.nll, 4) },
    ],
    rows: comparison.methods,
  });
}

/** What each method costs. */
export function costTable(comparison: Comparison): string {
  return table<MethodResult>({
    caption: "Table 5. Cost of one prediction with all maps",
    name: methodName,
    columns: [
      {
        head: "ms per image",
        better: "low",
        cell: ({ cost }) => ({ text: number(cost.msPerImage, 1), value: cost.msPerImage }),
      },
      {
        head: "time, ratio to Plain",
        cell: ({ cost }) => ({ text: cost.ratioToPlain === null ? "–" : `${number(cost.ratioToPlain, 2)}×` }),
      },
      {
        head: "parameters",
        better: "low",
        cell: ({ cost }) => ({ text: grouped(cost.parameters), value: cost.parameters }),
      },
    ],
    rows: comparison.methods,
  });
}

/** The methods on shifted images. */
export function shiftTable(comparison: Comparison): string {
  const rows = comparison.shift?.rows ?? [];
  if (rows.length === 0) return "";
  return table({
    caption: "Table 6. Out of distribution [interval]",
    group: (row) => METHOD_TITLES[row.method].short,
    name: { head: "confidence", of: (row) => confidenceTitle(row.confidence) },
    columns: [
      { head: "AUROC in/out", better: "high", cell: (row) => estimateCell(row.auroc, 3) },
      { head: "Dice in", cell: (row) => ({ text: number(row.diceIn, 3) }) },
      { head: "Dice out", better: "high", cell: (row) => ({ text: number(row.diceOut, 3), value: row.diceOut }) },
      { head: "flagged in", cell: (row) => ({ text: percent(row.flaggedIn) }) },
      {
        head: "flagged out",
        cell: ({ flaggedOut: { value, low, high } }) => ({
          text: percent(value),
          ...(low !== null && high !== null && { detail: `[${percent(low)}, ${percent(high)}]` }),
        }),
      },
    ],
    rows,
  });
}

/** The runs that were compared. */
export function runsTable(comparison: Comparison): string {
  return table({
    caption: "Runs",
    name: { head: "run", of: (run) => run.run },
    columns: [
      { head: "method", cell: (run) => ({ text: METHOD_TITLES[run.method].short }) },
      { head: "seed", cell: (run) => ({ text: String(run.seed) }) },
      { head: "heads", cell: (run) => ({ text: String(run.heads.length) }) },
      { head: "skipped (T)", cell: (run) => ({ text: String(run.skip) }) },
      { head: "fusion", cell: (run) => ({ text: run.fusion }) },
      {
        head: "mean Dice",
        cell: (run) => ({ text: number(mean(run.images.flatMap(({ dice }) => (dice === null ? [] : [dice]))), 3) }),
      },
      { head: "ms per image", cell: (run) => ({ text: number(run.msPerImage, 1) }) },
    ],
    rows: comparison.runs,
  });
}

const methodName = {
  head: "method",
  of: ({ method }: { method: MethodName }) => METHOD_TITLES[method].short,
};

function table<Row>({ caption, group, name, columns, rows }: Table<Row>): string {
  const cells = rows.map((row) => columns.map((column) => column.cell(row)));
  const best = columns.map(({ better = "none" }, j) => {
    const values = cells.map((row) => row[j]!.value ?? null).filter((value) => value !== null);
    if (better === "none" || new Set(values).size < 2) return undefined;
    return better === "high" ? Math.max(...values) : Math.min(...values);
  });
  const heads = [
    `<th scope="col">${escapeHtml(name.head)}</th>`,
    ...columns.map(({ head }) => `<th scope="col">${escapeHtml(head)}</th>`),
  ];
  const body = rows.map((row, i) => {
    const title = group?.(row);
    const isFirst = title !== undefined && (i === 0 || group?.(rows[i - 1]!) !== title);
    const over = isFirst
      ? `<tr class="group"><th scope="rowgroup" colspan="${columns.length + 1}">${escapeHtml(title)}</th></tr>\n`
      : "";
    const values = cells[i]!.map((cell, j) => td(cell, cell.value !== undefined && cell.value === best[j]));
    return `${over}<tr><th scope="row">${escapeHtml(name.of(row))}</th>${values.join("")}</tr>`;
  });
  return `<div class="scroll" role="region" tabindex="0" aria-label="${escapeHtml(caption)}"><table>
<caption>${escapeHtml(caption)}</caption>
<thead><tr>${heads.join("")}</tr></thead>
<tbody>
${body.join("\n")}
</tbody></table></div>`;
}

function td({ text, detail }: Cell, best: boolean): string {
  const shown = best
    ? `<b>${escapeHtml(text)}<span class="best" title="best of the column"> ★</span></b>`
    : escapeHtml(text);
  return `<td>${shown}${detail ? `<small>${escapeHtml(detail)}</small>` : ""}</td>`;
}

function meanCell(estimate: MeanEstimate, digits: number): Cell {
  const cell = estimateCell(estimate, digits);
  if (estimate.value === null) return cell;
  const leftOut = estimate.leftOut > 0 ? ` ${estimate.n} images` : "";
  return {
    ...cell,
    text: estimate.sd === null ? cell.text : `${cell.text} ± ${number(estimate.sd, digits)}`,
    detail: `${cell.detail ?? ""}${leftOut}`.trim(),
  };
}

function estimateCell(estimate: Estimate | undefined, digits: number): Cell {
  if (!estimate || estimate.value === null) return { text: "–", value: null };
  const { value, low, high } = estimate;
  const detail = low === null || high === null ? "" : `[${number(low, digits)}, ${number(high, digits)}]`;
  return { text: number(value, digits), value, ...(detail && { detail }) };
}

/** Rounded, with a true minus sign; an en dash where there is no value. */
export function number(value: number | null | undefined, digits: number): string {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

/** A share as a percentage. */
export function percent(value: number | null): string {
  return value === null ? "–" : `${number(100 * value, 1)} %`;
}

/** A probability of a test: three digits, or "< 0.001". */
export function pValue(p: number | null): string {
  if (p === null) return "–";
  return p < 0.001 ? "< 0.001" : number(p, 3);
}

function signed(value: number | null, digits: number): string {
  const text = number(value, digits);
  return value !== null && value > 0 ? `+${text}` : text;
}

function grouped(value: number): string {
  return String(value).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

function mean(values: readonly number[]): number | null {
  return values.length === 0 ? null : values.reduce((sum, value) => sum + value, 0) / values.length;
}
