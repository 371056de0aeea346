import { type Command, InvalidArgumentError, Option } from "commander";
import {
  dashed,
  type NumberBounds,
  nearest,
  type OptionSpec,
  type OptionSpecs,
  option,
  type Values,
} from "../options.js";
import { UsageError } from "./command.js";

/** Reads one command-line value; throws commander's error for a bad one, which ends the program with exit code 2. */
export type Parser<T> = (text: string) => T;

/** Reads what a specification accepts. Null and an empty choice of names, which have no text, are `none`. */
export function parserOf<T>(spec: OptionSpec<T>): Parser<T> {
  return (text) => {
    for (const one of spec.among ?? [spec]) {
      const value = one.kind === "array" ? readList(text, one.element as OptionSpec) : read(text, one);
      if (text.trim() !== "" && one.accepts(value)) return value as T;
    }
    throw new InvalidArgumentError(`Expected ${described(spec, text)}`);
  };
}

function readList(text: string, element: OptionSpec): unknown[] {
  return element.kind === "oneOf" && text === "none" ? [] : list(parserOf(element))(text);
}

function read(text: string, { kind, values, unit }: OptionSpec): unknown {
  if (unit !== undefined) return kind === "integer" ? Math.floor(Number(text) * unit) : Number(text) * unit;
  switch (kind) {
    case "integer":
      return /^[+-]?\d+$/.test(text.trim()) ? Number(text) : Number.NaN;
    case "number":
      return Number(text);
    case "oneOf":
      return values?.find((value) => nameOf(value) === text);
    default:
      return text;
  }
}

function described(spec: OptionSpec, text: string): string {
  const { kind, expected, values = [], among = [], ...bounds } = inUnits(spec);
  const names = values.map(nameOf);
  const others = among
    .slice(1)
    .flatMap(({ values: more = [] }) => more.filter((value) => value !== true).map((value) => `, or ${nameOf(value)}`));
  const near = nearest(text, names);
  const hint = near === undefined ? "" : ` Did you mean ${near}?`;
  if (kind === "integer") return `a whole number${within(bounds)}${others.join("")}.`;
  if (kind === "number") return `a number${within(bounds)}${others.join("")}.`;
  if (kind === "string") return "text that is not empty.";
  return kind === "oneOf" ? `one of ${names.join(", ")}.${hint}` : `${expected}.`;
}

function nameOf(value: unknown): string {
  return value === null ? "none" : String(value);
}

/** A number as a command is told it, in units of its own. */
function inUnits({ unit, ...spec }: OptionSpec): OptionSpec {
  if (unit === undefined) return spec;
  const told = (["min", "max", "above", "below", "default"] as const).map((name) => [name, spec[name]] as const);
  const numbers = told.flatMap(([name, value]) => (value === undefined ? [] : [[name, Number(value) / unit]]));
  return { ...spec, kind: "number", ...Object.fromEntries(numbers) };
}

/** The bounds of a number, in words; empty without. */
function within({ min, max, above, below }: NumberBounds): string {
  if (min !== undefined && max !== undefined) return ` from ${min} to ${max}`;
  if (min !== undefined && below !== undefined) return ` from ${min} to below ${below}`;
  const bounds = [
    min !== undefined && `of at least ${min}`,
    above !== undefined && `above ${above}`,
    max !== undefined && `of at most ${max}`,
    below !== undefined && `below ${below}`,
  ].filter(Boolean);
  return bounds.length > 0 ? ` ${bounds.join(" and ")}` : "";
}

/** A whole number within bounds. */
export const integer = (bounds: NumberBounds = {}) => parserOf(option.integer(bounds));

/** A finite number within bounds. */
export const number = (bounds: NumberBounds = {}) => parserOf(option.number(bounds));

/** Any text that is not empty. */
export const text = parserOf(option.string());

/** One of a few names; a near miss is answered with the right one. */
export const oneOf = <const T extends string>(names: readonly T[]) => parserOf(option.oneOf(names));

/** Comma-separated values. An empty one is refused. */
export function list<T>(item: Parser<T>): Parser<T[]> {
  return (text) => {
    const parts = text.split(",").map((part) => part.trim());
    if (parts.some((part) => part === "")) throw new InvalidArgumentError("Expected values separated by commas.");
    return parts.map(item);
  };
}

/** An option of a command that is made of its declaration. One that is true unless said otherwise is `--no-…`. */
export class DeclaredOption extends Option {
  constructor(
    name: string,
    readonly declaration: OptionSpec,
  ) {
    const without = otherwise(declaration);
    const more = [rangeOf(declaration), without && `default: ${without}`].filter(Boolean).join("; ");
    super(flagOf(name, declaration), [listed(declaration), more && `(${more})`].filter(Boolean).join(" "));
    this.makeOptionMandatory(declaration.required ?? false);
  }
}

/**
 * Adds options to a command, with their text, range and what holds without them as their help.
 * @param parsers reads the values of those that no specification can read
 */
export function withOptions(
  command: Command,
  specs: OptionSpecs,
  parsers: Readonly<Record<string, Parser<unknown>>> = {},
): Command {
  for (const [name, spec] of Object.entries(specs)) {
    const added = new DeclaredOption(name, spec);
    if (spec.kind === "boolean") command.addOption(added);
    else addParsed(command, added, parsers[name] ?? parserOf(spec));
  }
  return command;
}

/** Commander takes the null that `none` stands for as a value that is missing, and makes "" of it. */
function addParsed(command: Command, added: Option, parse: Parser<unknown>): void {
  let value: unknown;
  const read: Parser<unknown> = (text) => {
    value = parse(text);
    return value;
  };
  command.addOption(added.argParser(read));
  command.on(`option:${added.name()}`, () => {
    if (value === null) command.setOptionValueWithSource(added.attributeName(), null, "cli");
  });
}

/** What was given of those options of a command. */
export function givenOf<S extends OptionSpecs>(flags: object, specs: S): Values<S> {
  const all = Object.keys(specs).map((name) => [name, (flags as Record<string, unknown>)[name]] as const);
  return Object.fromEntries(all.filter(([, value]) => value !== undefined)) as Values<S>;
}

/** An option as it is written: `--clip-norm <x>`; `--structures [n]` where it may also be true. */
export function flagOf(name: string, spec: OptionSpec): string {
  if (spec.kind === "boolean") return dashed(spec.default === true ? `no-${name}` : name);
  const { arg = ARGUMENTS[spec.kind ?? "string"], among = [] } = spec;
  return `${dashed(name)} ${among.some(({ values }) => values?.includes(true)) ? `[${arg}]` : `<${arg}>`}`;
}

const ARGUMENTS = { integer: "n", number: "x", oneOf: "name", array: "list", string: "text", boolean: "" } as const;

/** Of more names an option's help lists none; the error for a wrong one does. */
const MOST_LISTED = 10;

/** What an option does, with the names that its text does not explain. */
export function listed({ text = "", element, values = element?.values ?? [] }: OptionSpec): string {
  const names = values.map(nameOf);
  return names.length > MOST_LISTED || names.every((name) => text.includes(name))
    ? text
    : `${text}: ${names.join(", ")}`;
}

/** Between which bounds a number is, in words; empty where there is nothing to say. */
export function rangeOf(spec: OptionSpec): string {
  const { kind, element, ...bounds } = inUnits(spec);
  if (kind === "array" && element) return rangeOf(element).replace(/^./, "each $&");
  return kind === "integer" || kind === "number" ? within(bounds).replace(/^ (of )?/, "") : "";
}

/** What holds without the option, in words; empty where there is nothing to say. */
export function otherwise(spec: OptionSpec): string {
  if (spec.otherwise !== undefined) return spec.otherwise;
  return spec.kind === "boolean" || spec.default === undefined ? "" : String(inUnits(spec).default);
}

/** The folder of the one run that a command works on, which is told as an argument or as an option. */
export const RUN = option.string({ text: "run folder", otherwise: "the argument", arg: "dir" });

/** A run folder that was told in either way. @throws UsageError for none, or for two */
export function runOf(argument: string | undefined, { run }: Values<{ run: typeof RUN }>): string {
  if (argument !== undefined && run !== undefined)
    throw new UsageError(`expected one run folder, but received ${argument} and --run ${run}`);
  const folder = argument ?? run;
  if (folder === undefined) throw new UsageError("expected a run folder, such as runs/busi");
  return folder;
}

/** Collects the values of an option that may be given several times. */
export const each =
  <T>(item: Parser<T>) =>
  (text: string, before: readonly T[] = []): T[] => [...before, item(text)];

/** `HEIGHTxWIDTH`, one number for a square, or `DEPTHxHEIGHTxWIDTH`. */
export const size: Parser<[height: number, width: number] | [depth: number, height: number, width: number]> = (
  value,
) => {
  const parts = value.trim().split(/[x×]/i);
  const [first = 0, second = first, third] = parts.map(Number);
  if (parts.length > 3 || !parts.every((part) => /^\d{1,5}$/.test(part) && Number(part) > 0))
    throw new InvalidArgumentError(
      "Expected HEIGHTxWIDTH in pixels, such as 128x128. For volumes: DEPTHxHEIGHTxWIDTH.",
    );
  return third === undefined ? [first, second] : [first, second, third];
};

/** An input's shape `NxCxHxW`; shorter forms leave out N, then C. Volumes: the whole `NxCxDxHxW`. */
export const inputShape: Parser<{ channels?: number; size: number[] }> = (value) => {
  const parts = value.trim().split(/[x×]/i);
  const numbers = parts.map(Number);
  if (numbers.length < 2 || numbers.length > 5 || !parts.every((part) => /^[1-9]\d{0,4}$/.test(part)))
    throw new InvalidArgumentError("Expected NxCxHxW, such as 1x1x128x128, or NxCxDxHxW, such as 1x1x32x64x64.");
  if (numbers.length === 5) return { channels: numbers[1] as number, size: numbers.slice(2) };
  const [width, height, channels] = numbers.reverse() as [number, number, number?];
  return { ...(channels === undefined ? {} : { channels }), size: [height, width] };
};
