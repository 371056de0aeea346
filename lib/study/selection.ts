// Which images of a data folder count, and which belong together: by the columns of its split.csv.
import path from "node:path";
import { parseCsv } from "../data/csv.js";
import { readTextIfAny } from "../data/files.js";
import { nameOf } from "../data/names.js";
import { LayerEnsemblesError } from "../errors.js";
import type { Item } from "../inference/inference.js";
import { nearest } from "../options.js";

/** A condition on a column of split.csv. */
export interface Condition {
  column: string;
  /** Whether the column must have this value, or must not. */
  equal: boolean;
  value: string;
}

/** What is chosen of a folder. */
export interface Selection {
  /** All must hold. */
  where: readonly Condition[];
  /** Column whose value is an image's group. @default "group", where there is one */
  group?: string;
}

/** The rows of a folder's split.csv, by id; null where there is none. */
interface Rows {
  columns: string[];
  byId: Map<string, Record<string, string>>;
}

/**
 * The items that fulfil all conditions, with their groups.
 * @throws ERR_LE_DATA for a column that is not there, or where no image is left
 */
export async function selectItems(
  items: readonly Item[],
  folder: string,
  { where, group }: Selection,
): Promise<Item[]> {
  if (where.length === 0 && group === undefined) return [...items];
  const rows = await readRows(folder);
  for (const column of [...where.map((condition) => condition.column), ...(group === undefined ? [] : [group])])
    checkColumn(column, rows, folder);
  const chosen = items.flatMap((item): Item[] => {
    const row = rows?.byId.get(nameOf(item.id)) ?? {};
    if (!where.every(({ column, equal, value }) => (cellOf(row, column) === nameOf(value)) === equal)) return [];
    if (group === undefined) return [item];
    const { group: _, ...rest } = item;
    const name = cellOf(row, group);
    return [{ ...rest, ...(name && { group: name }) }];
  });
  if (chosen.length === 0) {
    const said = where.map(({ column, equal, value }) => `${column}${equal ? "=" : "!="}${value}`).join(" and ");
    throw new LayerEnsemblesError(
      "ERR_LE_DATA",
      `Expected at least one image with ${said} in ${folder} but received none among ${items.length}.`,
    );
  }
  return chosen;
}

/** What a folder's split.csv has: its columns, and the names of its splits in the order of first appearance; empty without one. */
export async function tableOf(folder: string): Promise<{ columns: string[]; splits: string[] }> {
  const rows = await readRows(folder);
  const names = [...(rows?.byId.values() ?? [])].map((row) => cellOf(row, "split") ?? "");
  return { columns: rows?.columns ?? [], splits: [...new Set(names)].filter((name) => name !== "") };
}

async function readRows(folder: string): Promise<Rows | null> {
  const file = path.join(folder, "split.csv");
  const text = await readTextIfAny(file).catch((cause) => {
    throw new LayerEnsemblesError("ERR_LE_DATA", `Expected a readable ${file} but received ${cause.message}.`, {
      cause,
    });
  });
  if (text === undefined) return null;
  const { columns, rows } = parseCsv(text, file);
  return { columns, byId: new Map(rows.map((row) => [cellOf(row, "id") ?? "", row])) };
}

/** What a row says, also of a column called "constructor". */
function cellOf(row: Record<string, string>, column: string): string | undefined {
  return Object.hasOwn(row, column) ? nameOf((row[column] as string).trim()) : undefined;
}

function checkColumn(column: string, rows: Rows | null, folder: string): void {
  const columns = rows?.columns ?? [];
  if (columns.includes(column)) return;
  const near = nearest(column, columns);
  const received = rows === null ? "no split.csv" : columns.join(", ");
  const hint = near === undefined ? "" : ` Did you mean ${near}?`;
  throw new LayerEnsemblesError(
    "ERR_LE_DATA",
    `Expected a column "${column}" for split.csv in ${folder} but received ${received}.${hint}`,
  );
}
