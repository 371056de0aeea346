import { LayerEnsemblesError } from "./errors.js";

/** What a value must be: its description, as in "Expected <expected> for …", and the test. */
export interface OptionSpec {
  readonly expected: string;
  accepts(value: unknown): boolean;
  /** True where leaving the option out is an error. */
  readonly required?: boolean;
  /** The options inside, for an option that is itself a set of options. */
  readonly inner?: OptionSpecs;
}

/** The options of one call, by name. */
export type OptionSpecs = Readonly<Record<string, OptionSpec>>;

/** Bounds of a number; each is inclusive unless it says otherwise. */
export interface NumberBounds {
  readonly min?: number;
  readonly max?: number;
  /** Exclusive lower bound. */
  readonly above?: number;
  /** Exclusive upper bound. */
  readonly below?: number;
}

/** Makers of option specifications. */
export const option = {
  boolean: (): OptionSpec => ({ expected: "a boolean", accepts: (value) => typeof value === "boolean" }),

  /** A string, not empty unless `empty` is true. */
  string: ({ empty = false } = {}): OptionSpec => ({
    expected: empty ? "a string" : "a string that is not empty",
    accepts: (value) => typeof value === "string" && (empty || value !== ""),
  }),

  /** A finite number. */
  number: (bounds: NumberBounds = {}): OptionSpec => ({
    expected: `a finite number${boundsText(bounds)}`,
    accepts: (value) => typeof value === "number" && Number.isFinite(value) && within(value, bounds),
  }),

  /** An integer that a double holds exactly. */
  integer: (bounds: NumberBounds = {}): OptionSpec => ({
    expected: `an integer${boundsText(bounds)}`,
    accepts: (value) => typeof value === "number" && Number.isSafeInteger(value) && within(value, bounds),
  }),

  /** One of some literal values. */
  oneOf: (values: readonly (string | number | boolean | null)[]): OptionSpec => ({
    expected: values.length === 1 ? describe(values[0]) : `one of ${values.map((value) => describe(value)).join(", ")}`,
    accepts: (value) => (values as readonly unknown[]).includes(value),
  }),

  /** A function. */
  callback: (): OptionSpec => ({ expected: "a function", accepts: (value) => typeof value === "function" }),

  /** An `AbortSignal`, also one of another realm. */
  signal: (): OptionSpec => ({
    expected: "an AbortSignal",
    accepts: (value) =>
      isObject(value) &&
      typeof value.aborted === "boolean" &&
      typeof value.throwIfAborted === "function" &&
      typeof value.addEventListener === "function",
  }),

  /** An instance of a class. */
  instance: (type: abstract new (...args: never[]) => unknown): OptionSpec => ({
    expected: `a ${type.name}`,
    accepts: (value) => value instanceof type,
  }),

  /** An array whose every element fits; optionally of one length, or of at least one. */
  array: (element: OptionSpec, { length, min }: { length?: number; min?: number } = {}): OptionSpec => ({
    expected: `an array of ${length ?? (min ? `at least ${min}` : "values")}, each ${element.expected}`,
    accepts: (value) =>
      Array.isArray(value) &&
      (length === undefined || value.length === length) &&
      value.length >= (min ?? 0) &&
      value.every((item) => element.accepts(item)),
  }),

  /** A plain object with any names, whose every value fits. */
  record: (element: OptionSpec): OptionSpec => ({
    expected: `an object whose every value is ${element.expected}`,
    accepts: (value) => isPlainObject(value) && Object.values(value).every((item) => element.accepts(item)),
  }),

  /** A set of options of its own, checked with its own names. */
  object: (inner: OptionSpecs): OptionSpec => ({ expected: "an object of options", accepts: isPlainObject, inner }),

  /** Anything that fits one of several specifications. */
  anyOf: (...specs: readonly OptionSpec[]): OptionSpec => {
    const inner = specs.find((spec) => spec.inner)?.inner;
    return {
      expected: specs.map((spec) => spec.expected).join(", or "),
      accepts: (value) => specs.some((spec) => spec.accepts(value)),
      ...(inner && { inner }),
    };
  },

  /** A test of the caller's own. */
  custom: (expected: string, accepts: (value: unknown) => boolean): OptionSpec => ({ expected, accepts }),

  /** The same, but it must be given. */
  required: (spec: OptionSpec): OptionSpec => ({ ...spec, required: true }),
} as const;

/** No list of options is longer. */
const MOST_VALUES = 1_000_000;

/**
 * Checks the options of a call. An option that is `undefined` counts as left out.
 * @param context What the options belong to, as in "for option 'epochs' of fit".
 * @returns what was checked: a copy, lists and sets of options inside copied too, for which each property was read once. A
 *   getter may give something else the next time.
 * @throws LayerEnsemblesError `ERR_LE_OPTION`: an unknown name (with the nearest known one), a wrong type or value, a
 * required option left out.
 */
export function checkOptions<T>(context: string, options: T, specs: OptionSpecs): T {
  if (!isObject(options) || Array.isArray(options)) {
    throw invalid(`Expected an object for the options of ${context} but received ${describe(options)}.`);
  }
  const known = Object.keys(specs);
  for (const name of Object.keys(options)) {
    if (Object.hasOwn(specs, name)) continue;
    const near = nearest(name, known);
    const hint = near ? `Did you mean '${near}'?` : known.length ? `There are: ${known.join(", ")}.` : "It has none.";
    throw invalid(`Expected a known option for ${context} but received '${name}'. ${hint}`);
  }
  const checked: Record<string, unknown> = {};
  for (const [name, spec] of Object.entries(specs)) {
    const where = `option '${name}' of ${context}`;
    const value = copyList(where, (options as Record<string, unknown>)[name]);
    if (value === undefined) {
      if (spec.required) throw invalid(`Expected ${spec.expected} for ${where} but received nothing.`);
      continue;
    }
    if (!spec.accepts(value)) {
      throw invalid(`Expected ${spec.expected} for ${where} but received ${describe(value)}.`);
    }
    checked[name] = spec.inner && isPlainObject(value) ? checkOptions(where, value, spec.inner) : value;
  }
  return checked as T;
}

/**
 * Checks fields of an object that may have others, which are kept: what a file says that a later version may have written.
 * @param context as {@link checkOptions}
 * @returns a copy with the fields checked
 * @throws LayerEnsemblesError `ERR_LE_OPTION`
 */
export function checkFields<T>(context: string, value: T, specs: OptionSpecs): T {
  if (!isPlainObject(value)) throw invalid(`Expected an object for ${context} but received ${describe(value)}.`);
  const known = Object.fromEntries(Object.keys(specs).map((name) => [name, fieldOf(value, name)]));
  return { ...value, ...checkOptions(context, known, specs) } as T;
}

/** An object's own field: a file has no prototype. */
function fieldOf(value: Record<string, unknown>, name: string): unknown {
  return Object.hasOwn(value, name) ? value[name] : undefined;
}

function copyList(where: string, value: unknown): unknown {
  if (!Array.isArray(value)) return value;
  const { length } = value;
  if (length > MOST_VALUES)
    throw invalid(`Expected at most ${MOST_VALUES} values for ${where} but received ${length}.`);
  return Array.from({ length }, (_, i) => value[i]);
}

/** The candidate most like `name`, ignoring case; undefined where none is near enough to be a slip of the hand. */
export function nearest(name: string, candidates: readonly string[]): string | undefined {
  return nearestFew(name, candidates, 1)[0];
}

/** The candidates most like `name`, nearest first, at most `count`; those too far to be a slip of the hand are left out. */
export function nearestFew(name: string, candidates: readonly string[], count: number): string[] {
  const wanted = name.toLowerCase();
  return candidates
    .map((candidate) => ({ candidate, distance: editDistance(wanted, candidate.toLowerCase()) }))
    .filter(
      ({ candidate, distance }) => distance <= Math.max(1, Math.floor(Math.max(name.length, candidate.length) * 0.4)),
    )
    .sort((a, b) => a.distance - b.distance)
    .slice(0, count)
    .map(({ candidate }) => candidate);
}

/** Levenshtein distance, with the swap of two neighbours as one step (optimal string alignment). */
export function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let best = Math.min(previous[j - 1]! + (same ? 0 : 1), previous[j]! + 1, row[j - 1]! + 1);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) best = Math.min(best, before[j - 2]! + 1);
      row.push(best);
    }
    before = previous;
    previous = row;
  }
  return previous[b.length]!;
}

/** A value as an error message shows it: short, on one line, with its type where that is not plain to see. */
export function describe(value: unknown): string {
  switch (typeof value) {
    case "string":
      return JSON.stringify(value.length > 60 ? `${value.slice(0, 57)}...` : value);
    case "number":
    case "boolean":
    case "undefined":
      return String(value);
    case "bigint":
      return `${value}n`;
    case "symbol":
      return value.toString();
    case "function":
      return value.name ? `the function ${value.name}` : "a function";
  }
  if (value === null) return "null";
  if (Array.isArray(value)) {
    const shown = value.slice(0, 8).map((item) => (isObject(item) ? "…" : describe(item)));
    return `[${shown.join(", ")}${value.length > 8 ? `, … ${value.length} in all` : ""}]`;
  }
  if (ArrayBuffer.isView(value)) {
    const name = value.constructor.name;
    return value instanceof DataView ? `a ${name}` : `a ${name} of ${(value as Uint8Array).length}`;
  }
  const type = (value as object).constructor?.name;
  if (type && type !== "Object") return `an instance of ${type}`;
  const keys = Object.keys(value as object);
  return keys.length
    ? `an object with ${keys.slice(0, 6).join(", ")}${keys.length > 6 ? ", …" : ""}`
    : "an empty object";
}

function boundsText({ min, max, above, below }: NumberBounds): string {
  if (min !== undefined && max !== undefined) return ` from ${min} to ${max}`;
  const parts = [
    min !== undefined && `at least ${min}`,
    above !== undefined && `above ${above}`,
    max !== undefined && `at most ${max}`,
    below !== undefined && `below ${below}`,
  ].filter(Boolean);
  return parts.length ? ` ${parts.join(" and ")}` : "";
}

function within(value: number, { min, max, above, below }: NumberBounds): boolean {
  return (
    (min === undefined || value >= min) &&
    (max === undefined || value <= max) &&
    (above === undefined || value > above) &&
    (below === undefined || value < below)
  );
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

function isPlainObject(value: unknown): value is Record<string, unknown> {
  return isObject(value) && !Array.isArray(value) && !ArrayBuffer.isView(value);
}

function invalid(message: string): LayerEnsemblesError {
  return new LayerEnsemblesError("ERR_LE_OPTION", message);
}
