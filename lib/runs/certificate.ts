// certificate.json of a run: what is promised of what its gate accepts, and of which run that holds.
import path from "node:path";
import { type Certified, RULE_NAMES } from "../certificate/index.js";
import { readTextIfAny, writeTogether } from "../data/files.js";
import { parseJson } from "../data/json.js";
import { LayerEnsemblesError } from "../errors.js";
import type { PredictionFusion } from "../fusion/index.js";
import { withFolder } from "../native/folder-lock.js";
import { checkFields, type OptionSpecs, option } from "../options.js";
import { PACKAGE_VERSION } from "../package.js";
import { SCORE_NAMES, SCORES, type ScoreName } from "../scores/scores.js";
import { checkThresholds, type PixelSetFit, type SetThresholds } from "../sets/index.js";
import { fitHash, hashOf, type RunHashes, runHashes } from "./identity.js";
import { RUN_FILES, type Run } from "./run.js";
import { type ChosenTiles, inOwnWay } from "./tiles.js";

/** Version of certificate.json's layout. */
const FORMAT = 1;

/** What a certificate is of; hexadecimal SHA-256. */
export interface CertificateHashes extends RunHashes {
  /** Of the ids and bytes of the calibration cases. */
  cases: string;
  /** Of the run's fit of predicted Dice, or of nothing; certificates of earlier versions have it where the score is a fitted one. */
  fit?: string;
}

/** What `certify` writes into a run. Plain JSON. */
export interface Certificate extends Omit<Certified, "certified"> {
  /** Version of this layout; 1. */
  format: 1;
  /** Version of layer-ensembles that wrote it. */
  version: string;
  /** When; ISO 8601. */
  date: string;
  /** Which Dice. */
  dice: string;
  /** The score; κ is its value in the direction of confidence. */
  score: ScoreName;
  /** Where the calibration cases came from. */
  source: {
    /** Absolute path of their folder; null for outcomes of the run's service. */
    data: string | null;
    /** Their split; null for outcomes. */
    split: string | null;
    /** Images that were left out, as no pixel of their truth counts. */
    leftOut: number;
  };
  /** Numbers in which the network ran; certificates of earlier versions do not say. */
  precision?: "fp32" | "bf16";
  /** Thresholds of inner and outer masks that the same cases chose, where they were asked to. */
  sets?: PixelSetFit;
  /**
   * By score, what the calibration cases had, ascending, in the direction of confidence; the least number that there is for a case
   * that no threshold accepts. What a service's cases are compared with.
   */
  calibration: Partial<Record<ScoreName, number[]>>;
  /** Of the run, and of the ids and bytes of the calibration cases. */
  hashes: CertificateHashes;
  /** Of all other fields: whether somebody has changed one. */
  digest: string;
}

/** What a certificate is written from. */
export type CertificateContent = Omit<Certificate, "format" | "version" | "date" | "digest">;

const share = option.number({ min: 0, max: 1 });
const count = option.integer({ min: 0 });
const hash = option.sha256();
const object = option.custom<object>("an object", (value) => typeof value === "object" && value !== null);
const FIELDS: OptionSpecs = {
  format: option.required(option.oneOf([FORMAT])),
  claim: option.required(option.string()),
  rule: option.required(option.oneOf(RULE_NAMES)),
  alpha: option.required(share),
  delta: option.required(share),
  tau: option.required(share),
  score: option.required(option.oneOf(SCORE_NAMES)),
  threshold: option.required(option.number()),
  date: option.required(option.string()),
  cases: option.required(count),
  groups: option.required(count),
  accepted: option.required(count),
  failures: option.required(option.number({ min: 0 })),
  share: option.required(object),
  source: option.required(object),
  precision: option.oneOf(["fp32", "bf16"]),
  sets: object,
  hashes: option.required(object),
  calibration: option.required(option.record(option.array(option.number(), { min: 1 }))),
  steps: option.required(option.array(object)),
  digest: option.required(hash),
};
const HASHES: OptionSpecs = {
  weights: option.required(hash),
  settings: option.required(hash),
  run: option.required(hash),
  cases: option.required(hash),
};

/**
 * Why a certificate is not valid. `none`: the run has none. `damaged`: it is none. `another-version`: of a layout that this version does
 * not know. `edited`: its digest is another. `another-run`: made for another run. `stale-weights`: the weights are not those that
 * were certified. `stale-settings`: what else decides predictions in run.json is not.
 */
export const CERTIFICATE_FAULTS = [
  "none",
  "damaged",
  "another-version",
  "edited",
  "another-run",
  "stale-weights",
  "stale-settings",
] as const;

/** One of {@link CERTIFICATE_FAULTS}. */
export type CertificateFault = (typeof CERTIFICATE_FAULTS)[number];

/** Whether a certificate holds for a run. */
export type CertificateVerdict =
  | {
      /** It does. */
      valid: true;
      /** The certificate. */
      certificate: Certificate;
    }
  | {
      /** It does not. */
      valid: false;
      /** Why. */
      reason: CertificateFault;
      /** Why, in a sentence. */
      message: string;
    };

/**
 * Writes a certificate into its run, atomically: who is killed meanwhile, or has no space, leaves the one that was there, or makes it
 * stale.
 * @param predictedDice text of the run's predicted-dice.json with bounds of the same cases; left as it is without
 * @returns what was written
 * @throws ERR_LE_BUSY where a training or command is writing the run; ERR_LE_IO
 */
export async function writeCertificate(
  folder: string,
  content: CertificateContent,
  predictedDice?: string,
): Promise<Certificate> {
  const { format, version, date } = {
    format: FORMAT,
    version: PACKAGE_VERSION,
    date: new Date().toISOString(),
  } as const;
  // As it will be read: without what JSON has not.
  const plain = JSON.parse(JSON.stringify({ format, version, date, ...content })) as Omit<Certificate, "digest">;
  const certificate: Certificate = { ...plain, digest: hashOf(plain) };
  const text = `${JSON.stringify(certificate, null, 2)}\n`;
  await withFolder(folder, () =>
    writeTogether([
      ...(predictedDice === undefined ? [] : [[path.join(folder, RUN_FILES.predictedDice), predictedDice] as const]),
      [path.join(folder, RUN_FILES.certificate), text],
    ]),
  );
  return certificate;
}

/**
 * The content of a run's certificate.json, not yet checked; undefined where there is none.
 * @throws ERR_LE_CHECKPOINT for what is no JSON
 */
export async function readCertificate(folder: string): Promise<unknown> {
  const file = path.join(folder, RUN_FILES.certificate);
  try {
    const text = await readTextIfAny(file);
    return text === undefined ? undefined : parseJson(text);
  } catch (cause) {
    throw new LayerEnsemblesError(
      "ERR_LE_CHECKPOINT",
      `Expected a certificate in ${file} but received one that is damaged: ${(cause as Error).message}.`,
      { cause },
    );
  }
}

/**
 * Checks that a certificate is whole and holds for a run as it is now.
 * @param folder the run
 * @param certificate from wherever. @default the run's certificate.json
 * @throws ERR_LE_CHECKPOINT for a folder that is no run; ERR_LE_IO. A certificate that does not hold is no error but a verdict.
 */
export async function verifyCertificate(folder: string, certificate?: unknown): Promise<CertificateVerdict> {
  const hashes = await runHashes(folder);
  const invalid = (reason: CertificateFault, message: string) => ({ valid: false, reason, message }) as const;
  let given = certificate;
  try {
    given ??= await readCertificate(folder);
  } catch (error) {
    return invalid("damaged", (error as Error).message);
  }
  if (given === undefined) return invalid("none", `${folder} has no ${RUN_FILES.certificate}.`);
  const { format, digest, ...content } = { ...(given as Partial<Certificate>) };
  if (typeof format === "number" && format !== FORMAT)
    return invalid("another-version", `The certificate is of format ${format}; this version knows ${FORMAT}.`);
  let checked: Certificate;
  try {
    checked = checkFields("the certificate", given as Certificate, FIELDS);
    const fit = SCORES[checked.score].needs.fit ? option.required(hash) : hash;
    checkFields("'hashes' of the certificate", checked.hashes, { ...HASHES, fit });
  } catch (error) {
    return invalid("damaged", (error as Error).message);
  }
  if (hashOf({ format, ...content }) !== digest)
    return invalid("edited", "The certificate is not as it was written: its digest is another.");
  const { weights, settings, run, fit } = checked.hashes;
  if (run !== hashes.run) return invalid("another-run", "The certificate is of another run.");
  const again = "certify it again.";
  if (weights !== hashes.weights)
    return invalid("stale-weights", `The run's weights are not those that were certified: ${again}`);
  if (settings !== hashes.settings)
    return invalid(
      "stale-settings",
      `What decides predictions in ${RUN_FILES.run} is not what was certified: ${again}`,
    );
  if (fit !== undefined && fit !== (await fitHash(folder)))
    return invalid("stale-settings", `The fit of predicted Dice is not what was certified: ${again}`);
  return { valid: true, certificate: checked };
}

/**
 * A verdict for a model that runs in certain numbers: a certificate of others is stale, as probabilities differ a little.
 * @param precision of the model that predicts
 */
export function inPrecision(verdict: CertificateVerdict, precision: "fp32" | "bf16"): CertificateVerdict {
  if (!verdict.valid) return verdict;
  const { precision: certified = precision } = verdict.certificate;
  if (certified === precision) return verdict;
  const message = `The certificate is of predictions in ${certified}, and the network runs in ${precision}: choose --precision ${certified}, or certify it again.`;
  return { valid: false, reason: "stale-settings", message };
}

/** What is chosen for a prediction in place of what the run has, as far as its certificate hangs on it. */
export interface ChosenSettings extends ChosenTiles {
  /** Heads left out. */
  skip?: number | undefined;
  /** How heads are fused. */
  fusion?: PredictionFusion | undefined;
}

/** Which settings a run's certificate is not of, "skip and fusion" say; undefined where it is of all. */
export function chosenOtherwise(run: Run, { skip, fusion, ...tiles }: ChosenSettings): string | undefined {
  const { prediction: { heads, fusion: own = "mean" } = {}, skip: ownSkip } = run;
  const others = [
    skip !== undefined && (heads !== undefined || skip !== ownSkip) && "skip",
    fusion !== undefined && fusion !== own && "fusion",
    !inOwnWay(run, tiles) && (run.tiles ? "tiles" : "passes of whole images"),
  ];
  return others.filter(Boolean).join(" and ") || undefined;
}

/**
 * Thresholds of inner and outer masks that hold for predictions of a run: those of its certificate, for the settings that it is of.
 * @returns by class; or why there are none
 */
export function certifiedSets(
  verdict: CertificateVerdict,
  run: Run,
  chosen: ChosenSettings,
): { thresholds: Record<number, SetThresholds> } | { thresholds: undefined; message: string } {
  if (!verdict.valid) return { thresholds: undefined, message: verdict.message };
  const { sets } = verdict.certificate;
  if (!sets)
    return {
      thresholds: undefined,
      message: "The certificate has no thresholds of inner and outer masks (certify --sets).",
    };
  const others = chosenOtherwise(run, chosen);
  if (others === undefined) return { thresholds: checkThresholds(sets.thresholds, run.ensemble.classes) };
  const message = `The certified thresholds of inner and outer masks are of the run's own ${others}.`;
  return { thresholds: undefined, message };
}
