import { InvalidArgumentError } from "commander";
import { MODEL_OPTIONS } from "../ensemble/backbone.js";
import { toldOf, type Values } from "../options.js";
import { text } from "./arguments.js";

/** The options of a network that comes from a file. */
export const MODEL_FLAGS = toldOf(MODEL_OPTIONS);

/** What may be given of them. */
export type ModelFlags = Values<typeof MODEL_FLAGS>;

/** Readers of those whose text says more than their type. */
export const MODEL_PARSERS = {
  image: nameOrIndex,
  inputs: jsonObject,
  output: (value: string) => text(value).split(".").map(nameOrIndex),
};

function nameOrIndex(value: string): string | number {
  return /^\d+$/.test(value) ? Number(value) : text(value);
}

function jsonObject(value: string): Record<string, unknown> {
  try {
    const parsed: unknown = JSON.parse(value);
    if (typeof parsed === "object" && parsed !== null && !Array.isArray(parsed))
      return parsed as Record<string, unknown>;
  } catch {}
  throw new InvalidArgumentError('Expected a JSON object, such as {"n": 3}.');
}

/** A name with `*` (within one part between dots), `**` (across dots) or `?` (one character) as a test of names. */
export function glob(pattern: string): (name: string) => boolean {
  const source = pattern.replace(/\*\*|[*?]|[^*?]+/g, (part) => {
    if (part === "**") return ".*";
    if (part === "*") return "[^.]*";
    if (part === "?") return "[^.]";
    return part.replace(/[\\^$.|+()[\]{}]/g, "\\$&");
  });
  const test = new RegExp(`^${source}$`);
  return (name) => test.test(name);
}

/** Whether a text is a pattern rather than a name. */
export function isGlob(value: string): boolean {
  return /[*?]/.test(value);
}
