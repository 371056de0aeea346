import { type Command, InvalidArgumentError } from "commander";
import type { ModelOptions } from "../ensemble/backbone.js";
import { text } from "./arguments.js";

/** The options of a network that comes from a file. */
export interface ModelFlags {
  image?: string | number;
  inputs?: Record<string, unknown>;
  output?: (string | number)[];
  trust?: boolean;
}

/** Adds the options of a network that comes from a file to a command. */
export function withModelOptions(command: Command): Command {
  return command
    .option("--image <argument>", "model file: the argument that takes the image, by name or index", nameOrIndex)
    .option("--inputs <json>", 'model file: values of its other arguments, such as {"n": 3}', jsonObject)
    .option("--output <path>", "model file: where its own output is, such as out or 0.logits", (value) =>
      text(value).split(".").map(nameOrIndex),
    )
    .option("--trust", "model file: read a TorchScript file without trying it in another process first");
}

/** What was given of them. */
export function modelOptions({ image, inputs, output, trust }: ModelFlags): ModelOptions {
  return {
    ...(image !== undefined && { image }),
    ...(inputs !== undefined && { inputs }),
    ...(output !== undefined && { output }),
    ...(trust !== undefined && { trust }),
  };
}

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
