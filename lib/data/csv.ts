import { LayerEnsemblesError } from "../errors.js";

/** A table with a header: one record per row, its keys in the order of the columns. */
export interface CsvTable {
  columns: string[];
  rows: Record<string, string>[];
}

/**
 * Reads comma-separated text with a header line (RFC 4180: quoted fields may hold commas, line breaks and doubled
 * quotes). A byte-order mark, CRLF and blank lines are accepted.
 * @param name the file's name, for messages
 * @throws ERR_LE_DATA on an open quote, a repeated column or a row of another length
 */
export function parseCsv(text: string, name: string): CsvTable {
  const lines = splitFields(text.replace(/^\uFEFF/, ""), name);
  const header = lines.shift();
  if (!header) throw new LayerEnsemblesError("ERR_LE_DATA", `Expected a header line for ${name} but received no text`);
  const columns = header.fields.map((field) => field.trim());
  const repeated = columns.find((column, i) => columns.indexOf(column) !== i);
  if (repeated !== undefined) {
    throw new LayerEnsemblesError(
      "ERR_LE_DATA",
      `Expected distinct column names for ${name} but received "${repeated}" twice`,
    );
  }
  const rows = lines.map(({ fields, line }) => {
    if (fields.length !== columns.length) {
      throw new LayerEnsemblesError(
        "ERR_LE_DATA",
        `Expected ${columns.length} fields (${columns.join(",")}) for line ${line} of ${name} but received ${fields.length}`,
      );
    }
    return Object.fromEntries(columns.map((column, i) => [column, fields[i] as string]));
  });
  return { columns, rows };
}

/** One line of comma-separated text without its line break; fields are quoted where they must be. */
export function csvLine(fields: readonly (string | number)[]): string {
  return fields
    .map((field) => {
      const text = String(field);
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    })
    .join(",");
}

/**
 * A table as comma-separated text with a header line.
 * @throws where two columns have one name, so that one would be taken for the other
 */
export function csvText(columns: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  const twice = columns.find((column, i) => columns.indexOf(column) !== i);
  if (twice !== undefined) throw new Error(`unreachable: two columns are called "${twice}"`);
  return `${[columns, ...rows].map(csvLine).join("\n")}\n`;
}

/** Names made distinct: one that an earlier one has gets " (2)", " (3)", … Names of data may be those of measures. */
export function distinctNames(names: readonly string[]): string[] {
  const taken = new Set<string>();
  return names.map((name) => {
    let free = name;
    for (let i = 2; taken.has(free); i++) free = `${name} (${i})`;
    taken.add(free);
    return free;
  });
}

function splitFields(text: string, name: string): { fields: string[]; line: number }[] {
  const rows: { fields: string[]; line: number }[] = [];
  let fields: string[] = [];
  let field = "";
  let line = 1;
  let start = 1;
  let quoted = false;
  let wasQuoted = false;
  const endRow = () => {
    fields.push(field);
    if (fields.length > 1 || field !== "" || wasQuoted) rows.push({ fields, line: start });
    fields = [];
    field = "";
    wasQuoted = false;
    start = line + 1;
  };
  for (let i = 0; i < text.length; i++) {
    const char = text[i] as string;
    if (quoted) {
      if (char === '"' && text[i + 1] === '"') {
        field += '"';
        i++;
      } else if (char === '"') {
        quoted = false;
      } else {
        if (char === "\n") line++;
        field += char;
      }
    } else if (char === '"' && field === "" && !wasQuoted) {
      quoted = true;
      wasQuoted = true;
    } else if (char === ",") {
      fields.push(field);
      field = "";
      wasQuoted = false;
    } else if (char === "\n" || (char === "\r" && text[i + 1] === "\n")) {
      if (char === "\r") i++;
      endRow();
      line++;
    } else {
      field += char;
    }
  }
  if (quoted) {
    throw new LayerEnsemblesError(
      "ERR_LE_DATA",
      `Expected a closing quote for the field that opens in line ${start} of ${name} but received the end of the file`,
    );
  }
  if (field !== "" || fields.length > 0) endRow();
  return rows;
}
