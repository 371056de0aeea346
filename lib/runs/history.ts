import { csvLine } from "../data/csv.js";
import { writeAtomic } from "../data/files.js";
import { LayerEnsemblesError } from "../errors.js";

/** One epoch's numbers by column name. */
export type HistoryRow = Record<string, number>;

/**
 * A run's history.csv: one row per epoch, its header from the rows' keys. The file is replaced as a whole for each row,
 * so that it is complete at every moment.
 */
export class HistoryFile {
  readonly #path: string;
  readonly #rows: HistoryRow[] = [];
  #last: Promise<void> = Promise.resolve();

  /** A history that starts empty: its first row replaces a file that is there. */
  constructor(path: string) {
    this.#path = path;
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
