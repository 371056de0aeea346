import path from "node:path";
import { readText } from "../data/files.js";
import { parseJson } from "../data/json.js";
import { LayerEnsemblesError } from "../errors.js";
import { checkOptions, dashed, option } from "../options.js";
import { METHODS, type MethodName } from "../runs/methods.js";

/** Flags of a command by name, without the dashes and in camelCase: `{ "size": "128x128", "classes": 2 }`. */
export type Flags = Readonly<Record<string, string | number | boolean | readonly (string | number)[]>>;

/** A study: which methods are trained on what, and how they are tuned and compared. */
export interface StudyConfig {
  /** Heading of the report. */
  title: string;
  /** Data folder; relative to the configuration file. */
  data: string;
  /** Folder for everything; relative to the configuration file. */
  out: string;
  /** Flags of `train` for all methods, without --data, --run, --method and --seed. */
  train: Flags;
  /** The methods, each with flags of its own. */
  methods: Readonly<Partial<Record<MethodName, Flags>>>;
  /** One run of each method for each. A deep ensemble's members take the seeds from its own on. @default [0] */
  seeds: readonly number[];
  /** Flags of `tune` for the Layer Ensemble runs; false: they are not tuned. @default {} */
  tune: Flags | false;
  /** Flags of `compare`, without the runs, --data and --out; `ood` is relative to the configuration file. @default {} */
  compare: Flags;
}

/** One network, or one ensemble of them, to train. */
export interface StudyRun {
  method: MethodName;
  seed: number;
  /** Folder of the run. */
  folder: string;
  /** Flags of `train`, those of --run, --data, --method and --seed included. */
  flags: string[];
  /** The member of a deep ensemble that is this very network, so that it is copied and not trained again. */
  copyOf?: string;
}

/**
 * Reads a study's configuration.
 * @throws ERR_LE_DATA for a file that is not there or no JSON; ERR_LE_OPTION for what is in it
 */
export async function readStudy(file: string): Promise<StudyConfig> {
  let parsed: unknown;
  try {
    parsed = parseJson(await readText(file));
  } catch (cause) {
    const received = cause instanceof Error ? cause.message : String(cause);
    throw new LayerEnsemblesError("ERR_LE_DATA", `Expected a study's JSON in ${file} but received: ${received}`, {
      cause,
    });
  }
  const flags = option.record(
    option.anyOf(
      option.string(),
      option.number(),
      option.boolean(),
      option.array(option.string()),
      option.array(option.number()),
    ),
  );
  const context = `the study ${file}`;
  checkOptions(context, parsed, {
    title: option.string(),
    data: option.required(option.string()),
    out: option.required(option.string()),
    train: flags,
    methods: option.required(
      option.custom(
        `an object with some of ${METHODS.join(", ")}`,
        (value) => Object(value) === value && !Array.isArray(value),
      ),
    ),
    seeds: option.array(option.integer({ min: 0 }), { min: 1 }),
    tune: option.anyOf(flags, option.oneOf([false])),
    compare: flags,
  });
  const given = parsed as Partial<StudyConfig> & Pick<StudyConfig, "data" | "out" | "methods">;
  checkOptions(`'methods' of ${context}`, given.methods, Object.fromEntries(METHODS.map((name) => [name, flags])));
  if (Object.keys(given.methods).length === 0)
    throw new LayerEnsemblesError("ERR_LE_OPTION", `Expected at least one method in ${context} but received none.`);
  const at = (name: string) => path.resolve(path.dirname(file), name);
  const { title = path.basename(file, path.extname(file)), train = {}, seeds = [0], tune = {}, compare = {} } = given;
  if (new Set(seeds).size !== seeds.length)
    throw new LayerEnsemblesError("ERR_LE_OPTION", `Expected distinct seeds in ${context} but received ${seeds}.`);
  const { ood } = compare;
  return {
    title,
    data: at(given.data),
    out: at(given.out),
    train,
    methods: given.methods,
    seeds,
    tune,
    compare: typeof ood === "string" ? { ...compare, ood: at(ood) } : compare,
  };
}

/** All runs of a study, in the order of their training: for each seed, deep ensembles first. */
export function studyRuns(config: StudyConfig): StudyRun[] {
  const { methods, out } = config;
  const trainsAlike = (name: MethodName) => {
    const { members: _members, jobs: _jobs, ...own } = methods[name] as Flags;
    return JSON.stringify(Object.entries(own).sort());
  };
  const shared = methods.de && methods.plain && trainsAlike("de") === trainsAlike("plain");
  const order: readonly MethodName[] = ["de", "plain", "mh", "mcd", "le"];
  return config.seeds.flatMap((seed) =>
    order
      .filter((method) => methods[method])
      .map((method) => {
        const folder = path.join(out, "runs", `${method}-${seed}`);
        const own = { ...config.train, ...methods[method], data: config.data, run: folder, method, seed };
        // A deep ensemble's first member is the plain network of its seed.
        const copyOf = shared && method === "plain" && path.join(out, "runs", `de-${seed}`, "members", "1");
        return { method, seed, folder, flags: commandLine(own), ...(copyOf && { copyOf }) };
      }),
  );
}

/** Flags that are given once for each of their values. */
const REPEATED = new Set(["where", "oodWhere", "referenceWhere"]);

/** `{ "clipNorm": 1, "resume": true }` as `--clip-norm 1 --resume`. False leaves a flag out; lists are joined by commas. */
export function commandLine(flags: Flags): string[] {
  return Object.entries(flags).flatMap(([name, value]) => {
    const flag = dashed(name);
    if (value === false) return [];
    if (REPEATED.has(name)) return [value].flat().flatMap((one) => [flag, String(one)]);
    return value === true ? [flag] : [flag, Array.isArray(value) ? value.join(",") : String(value)];
  });
}
