import { readFileSync } from "node:fs";

/** The `@default` of the doc comment of each option that a file declares: a value where it is one, else text. */
export function documentedDefaults(file: string): Record<string, unknown> {
  const source = readFileSync(file, "utf8");
  const found = source.matchAll(/@default (.*?)\s*\*\/\s+(\w+):/g);
  return Object.fromEntries(
    Array.from(found, ([, text = "", name]) => {
      try {
        return [name, JSON.parse(text)];
      } catch {
        return [name, text];
      }
    }),
  );
}
