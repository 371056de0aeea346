import { LayerEnsemblesError } from "./errors.js";

/** Bounds of a number; each is inclusive unless it says otherwise. */
export interface NumberBounds {
  readonly min?: number;
  readonly max?: number;
  /** Exclusive lower bound. */
  readonly above?: number;
  /** Exclusive upper bound. */
  readonly below?: number;
}

/** What holds where an option is left out, and what is said of it. */
export interface About<T = unknown> {
  /** Its value where it is left out. */
  readonly default?: T;
  /** In words, what holds where it is left out and `default` does not say so. */
  readonly otherwise?: string;
  /** What it does, in a line of a command's help and of the documentation. A command has no option without. */
  readonly text?: string;
  /** What stands for its value there, such as `dir`. */
  readonly arg?: string;
  /** How many of its own units the one is that a command is told in: 1000 for seconds, where it is in milliseconds. */
  readonly unit?: number;
}

/** What a value must be: its description, as in "Expected <expected> for …", and the test. `T` is its type. */
export interface OptionSpec<T = unknown> extends About<T>, NumberBounds {
  readonly expected: string;
  accepts(value: unknown): boolean;
  /** True where leaving the option out is an error. */
  readonly required?: boolean;
  /** The options inside, for an option that is itself a set of options. */
  readonly inner?: OptionSpecs;
  /** How text is read as such a value; the bounds above are a number's. Undefined where text alone does not say. */
  readonly kind?: "boolean" | "string" | "number" | "integer" | "oneOf" | "array";
  /** Of `oneOf`. */
  readonly values?: readonly Literal[];
  /** Of an array. */
  readonly element?: OptionSpec;
  /** Of `anyOf`, whose other properties are those of the first. */
  readonly among?: readonly OptionSpec[];
}

/** The options of one call, by name. */
export type OptionSpecs = Readonly<Record<string, OptionSpec>>;

/** The type of what a specification accepts. */
export type ValueOf<S> = S extends OptionSpec<infer T> ? T : never;

/** What may be given for a set of options. */
export type Values<S> = { -readonly [K in keyof S as S[K] extends { required: true } ? never : K]?: ValueOf<S[K]> } & {
  -readonly [K in keyof S as S[K] extends { required: true } ? K : never]: ValueOf<S[K]>;
};

/** The options of a set that have a default. */
export type Defaults<S> = { -readonly [K in keyof S as S[K] extends { default: unknown } ? K : never]: ValueOf<S[K]> };

/** The options of a set that have a text. */
export type Told<S> = { [K in keyof S as S[K] extends { text: string } ? K : never]: S[K] };

type Literal = string | number | boolean | null;
/** A specification with a default. */
export interface Defaulted<T> extends OptionSpec<T> {
  readonly default: T;
}
type Made<T, A> = (A extends { default: T } ? Defaulted<T> : OptionSpec<T>) &
  (A extends { text: string } ? { readonly text: string } : unknown);

/** A specification of values of type `T`, with what is said about it. */
function made<T, A>(spec: OptionSpec, about: A): Made<T, A> {
  return { ...about, ...spec } as Made<T, A>;
}

/** Makers of option specifications. */
export const option = {
  boolean: <A extends About<boolean>>(about?: A) =>
    made<boolean, A>(
      { kind: "boolean", expected: "a boolean", accepts: (value) => typeof value === "boolean" },
      about as A,
    ),

  /** A string, not empty unless `empty` is true. */
  string: <A extends About<string>>({ empty = false, ...about }: A & { empty?: boolean } = {} as A) =>
    made<string, A>(
      {
        kind: "string",
        expected: empty ? "a string" : "a string that is not empty",
        accepts: (value) => typeof value === "string" && (empty || value !== ""),
      },
      about as unknown as A,
    ),

  /** A string of a form that `expected` describes. */
  pattern: <A extends About<string>>(expected: string, form: RegExp, about?: A) =>
    made<string, A>({ expected, accepts: (value) => typeof value === "string" && form.test(value) }, about as A),

  /** A finite number. */
  number: <A extends NumberBounds & About<number>>(about: A = {} as A) =>
    made<number, A>(
      {
        kind: "number",
        expected: `a finite number${boundsText(about)}`,
        accepts: (value) => typeof value === "number" && Number.isFinite(value) && within(value, about),
      },
      about,
    ),

  /** An integer that a double holds exactly. */
  integer: <A extends NumberBounds & About<number>>(about: A = {} as A) =>
    made<number, A>(
      {
        kind: "integer",
        expected: `an integer${boundsText(about)}`,
        accepts: (value) => typeof value === "number" && Number.isSafeInteger(value) && within(value, about),
      },
      about,
    ),

  /** One of some literal values. */
  oneOf: <const T extends Literal, const A extends About<T>>(values: readonly T[], about?: A) =>
    made<T, A>(
      {
        kind: "oneOf",
        values,
        expected:
          values.length === 1 ? describe(values[0]) : `one of ${values.map((value) => describe(value)).join(", ")}`,
        accepts: (value) => (values as readonly unknown[]).includes(value),
      },
      about as A,
    ),

  /** A function. */
  callback: <F>(): OptionSpec<F> => ({ expected: "a function", accepts: (value) => typeof value === "function" }),

  /** An `AbortSignal`, also one of another realm. */
  signal: (): OptionSpec<AbortSignal> => ({
    expected: "an AbortSignal",
    accepts: (value) =>
      isObject(value) &&
      typeof value.aborted === "boolean" &&
      typeof value.throwIfAborted === "function" &&
      typeof value.addEventListener === "function",
  }),

  /** An instance of a class. */
  instance: <T>(type: abstract new (...args: never[]) => T): OptionSpec<T> => ({
    expected: `a ${type.name}`,
    accepts: (value) => value instanceof type,
  }),

  /** An array whose every element fits; optionally of one length, or of at least one. */
  array: <T, A extends About<readonly T[]>>(
    element: OptionSpec<T>,
    { length, min, ...about }: A & { length?: number; min?: number } = {} as A,
  ) =>
    made<readonly T[], A>(
      {
        kind: "array",
        element,
        expected: `an array of ${length ?? (min ? `at least ${min}` : "values")}, each ${element.expected}`,
        accepts: (value) =>
          Array.isArray(value) &&
          (length === undefined || value.length === length) &&
          value.length >= (min ?? 0) &&
          value.every((item) => element.accepts(item)),
      },
      about as unknown as A,
    ),

  /** An array of two. */
  pair: <T>(element: OptionSpec<T>) => option.array(element, { length: 2 }) as OptionSpec<readonly [T, T]>,

  /** A plain object with any names, whose every value fits. */
  record: <T>(element: OptionSpec<T>): OptionSpec<Record<string, T>> => ({
    expected: `an object whose every value is ${element.expected}`,
    accepts: (value) => isPlainObject(value) && Object.values(value).every((item) => element.accepts(item)),
  }),

  /** A set of options of its own, checked with its own names. */
  object: <T>(inner: OptionSpecs): OptionSpec<T> => ({
    expected: "an object of options",
    accepts: isPlainObject,
    inner,
  }),

  /** Anything that fits one of several specifications. */
  anyOf: <S extends readonly OptionSpec[]>(...specs: S): OptionSpec<ValueOf<S[number]>> => {
    const inner = specs.find((spec) => spec.inner)?.inner;
    return {
      ...(specs[0] as OptionSpec<ValueOf<S[number]>>),
      among: specs,
      expected: specs.map((spec) => spec.expected).join(", or "),
      accepts: (value) => specs.some((spec) => spec.accepts(value)),
      ...(inner && { inner }),
    };
  },

  /** The same, or null. */
  orNull: <T>(spec: OptionSpec<T>): OptionSpec<T | null> => option.anyOf(spec, option.oneOf([null])),

  /** A SHA-256 as its hexadecimal digits. */
  sha256: (): OptionSpec<string> => option.pattern("a SHA-256 in hexadecimal digits", /^[0-9a-f]{64}$/),

  /** A date as text. */
  date: (): OptionSpec<string> =>
    option.custom("a date in ISO 8601", (value) => typeof value === "string" && !Number.isNaN(Date.parse(value))),

  /** A test of the caller's own. */
  custom: <T>(expected: string, accepts: (value: unknown) => boolean): OptionSpec<T> => ({ expected, accepts }),

  /** The same, but it must be given. */
  required: <T>(spec: OptionSpec<T>) => ({ ...spec, required: true }) as const,

  /** The same, with more said about it. */
  with: <T, const A extends About<T>>(spec: OptionSpec<T>, about: A) => made<T, A>({ ...spec, ...about }, about),
} as const;

/** What holds where nothing is given. */
export function defaultsOf<S extends OptionSpecs>(specs: S): Defaults<S> {
  const some = Object.entries(specs).filter(([, spec]) => spec.default !== undefined);
  return Object.fromEntries(some.map(([name, spec]) => [name, spec.default])) as Defaults<S>;
}

/** Those that have a text, which are options of commands too. */
export function toldOf<S extends OptionSpecs>(specs: S): Told<S> {
  return Object.fromEntries(Object.entries(specs).filter(([, spec]) => spec.text !== undefined)) as Told<S>;
}

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

/** An option as a flag: `clipNorm` is `--clip-norm`. */
export function dashed(name: string): string {
  return `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
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
