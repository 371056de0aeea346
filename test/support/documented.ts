import { readFileSync } from "node:fs";

/** What the doc comment of each option that a file declares says behind `@default`. */
export function documentedDefaults(file: string): Record<string, string> {
  const found = readFileSync(file, "utf8").matchAll(/@default (.*?)\s*\*\/\s+(\w+):/g);
  return Object.fromEntries(Array.from(found, ([, text = "", name]) => [name, text]));
}

/** A value as such a comment has it; undefined for words. */
export function documentedValue(text: string | undefined): unknown {
  try {
    return JSON.parse(text ?? "");
  } catch {
    return undefined;
  }
}
