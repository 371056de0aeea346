import { csvLine, parseCsv } from "../data/csv.js";
import { readTextIfAny, writeAtomic } from "../data/files.js";
import { LayerEnsemblesError } from "../errors.js";

/** One epoch's numbers by column name. */
export type HistoryRow = Record<string, number>;

/**
 * A run's history.csv: one row per epoch, its header from the rows' keys. The file is replaced as a whole for each row,
 * so that it is complete at every moment.
 */
export class HistoryFile {
  readonly #path: string;
  readonly #rows: HistoryRow[];
  #last: Promise<void> = Promise.resolve();

  private constructor(path: string, rows: HistoryRow[]) {
    this.#path = path;
    this.#rows = rows;
  }

  /**
   * Opens a history. Without `fromEpoch` it starts empty, and the file is replaced by the first row; with it, rows
   * whose `epoch` is below that are kept, and the rest forgotten: what a resumed run needs.
   * @throws ERR_LE_DATA for a file that is no table of numbers
   */
  static async open(path: string, options: { fromEpoch?: number } = {}): Promise<HistoryFile> {
    const { fromEpoch } = options;
    if (fromEpoch === undefined) return new HistoryFile(path, []);
    const rows = (await readHistory(path)).filter((row) => row.epoch! < fromEpoch);
    const history = new HistoryFile(path, rows);
    if (rows.length > 0) await history.#write();
    return history;
  }

  /** The rows so far, oldest first. */
  get rows(): readonly HistoryRow[] {
    return this.#rows;
  }

  /**
   * Adds a row, which must have a column `epoch` above that of the row before. A column that a row lacks stays empty.
   * @throws ERR_LE_VALUE for epochs that do not increase; ERR_LE_IO
   */
  append(row: HistoryRow): Promise<void> {
    const before = this.#rows.at(-1)?.epoch ?? Number.NEGATIVE_INFINITY;
    if (!(row.epoch! > before)) {
      const message = `Expected an epoch above ${before} for ${this.#path} but received ${row.epoch}`;
      return Promise.reject(new LayerEnsemblesError("ERR_LE_VALUE", message));
    }
    this.#rows.push({ ...row });
    // One write at a time: an older content must not replace a newer one.
    this.#last = this.#last.catch(() => {}).then(() => this.#write());
    return this.#last;
  }

  #write(): Promise<void> {
    const columns = [...new Set(this.#rows.flatMap((row) => Object.keys(row)))];
    const lines = this.#rows.map((row) => csvLine(columns.map((column) => row[column] ?? "")));
    return writeAtomic(this.#path, `${[csvLine(columns), ...lines].join("\n")}\n`);
  }
}

/**
 * Reads a history.csv; empty where there is no file.
 * @throws ERR_LE_DATA for a file that is no table of numbers with a column `epoch`
 */
export async function readHistory(path: string): Promise<HistoryRow[]> {
  const text = await readTextIfAny(path);
  if (text === undefined) return [];
  return parseCsv(text, path).rows.map((fields) => {
    const row: HistoryRow = {};
    for (const [column, field] of Object.entries(fields)) {
      if (field === "") continue;
      const value = Number(field);
      if (Number.isNaN(value) && field !== "NaN") {
        throw new LayerEnsemblesError(
          "ERR_LE_DATA",
          `Expected numbers for column "${column}" of ${path} but received "${field}"`,
        );
      }
      row[column] = value;
    }
    if (row.epoch === undefined) {
      throw new LayerEnsemblesError("ERR_LE_DATA", `Expected a column "epoch" for ${path} but received none`);
    }
    return row;
  });
}
