// What a run's predictions hang on, as hashes: who has one can tell whether it is still the same.
import { createHash, type Hash } from "node:crypto";
import path from "node:path";
import { ioError, isMissing, openRegular, readRegular } from "../data/files.js";
import { canonicalJson } from "../data/json.js";
import { RUN_FILES, type Run, type RunContent, readRun } from "./run.js";

/** Hashes of a run, hexadecimal SHA-256. */
export interface RunHashes {
  /** Of its weights, those of every member; and of the copy of a network that came from a file. */
  weights: string;
  /** Of what else in run.json decides predictions: network, heads, skipped ones, fusion, temperatures, preprocessing, precision. */
  settings: string;
  /** Of what it is: its method, network and training images. It stays when the run is trained or tuned again. */
  run: string;
}

/**
 * The hashes of a run folder as it is now.
 * @throws ERR_LE_CHECKPOINT for a folder that is no run; ERR_LE_IO where a file cannot be read
 */
export async function runHashes(folder: string): Promise<RunHashes> {
  const run = await readRun(folder);
  const parts = await partsOf(folder, run);
  return {
    weights: await hashOfWeights(folder, parts),
    settings: hashOf([settingsOf(run), ...(run.method === "de" ? parts.map(([, member]) => settingsOf(member)) : [])]),
    run: hashOf(identityOf(run)),
  };
}

/**
 * {@link RunHashes.weights} alone.
 * @throws ERR_LE_CHECKPOINT for a member that is no run; ERR_LE_IO where a file cannot be read
 */
export async function weightsHash(folder: string, run: RunContent): Promise<string> {
  return hashOfWeights(folder, await partsOf(folder, run));
}

/** The folders that hold weights, relative to the run's, and what their run.json says. */
type Part = readonly [folder: string, run: RunContent];

async function partsOf(folder: string, run: RunContent): Promise<readonly Part[]> {
  const members = Array.from({ length: run.method === "de" ? (run.members ?? 0) : 0 }, (_, i) =>
    path.join("members", String(i + 1)),
  );
  if (members.length === 0) return [["", run]];
  return Promise.all(members.map(async (member): Promise<Part> => [member, await readRun(path.join(folder, member))]));
}

async function hashOfWeights(folder: string, parts: readonly Part[]): Promise<string> {
  const weights = createHash("sha256");
  for (const [part, { backbone }] of parts) {
    const copy = typeof backbone.file === "string" ? [backbone.file] : [];
    for (const name of [RUN_FILES.weights, ...copy]) await addFile(weights, folder, path.join(part, name));
  }
  return weights.digest("hex");
}

/**
 * Hash of the fit of predicted Dice in a run, bounds and all, which its settings do not name; without a fit that of nothing.
 * @throws ERR_LE_IO
 */
export async function fitHash(folder: string): Promise<string> {
  const file = path.join(folder, RUN_FILES.predictedDice);
  const bytes = await readRegular(file).catch((cause) => {
    if (isMissing(cause)) return "";
    throw ioError(file, "readable", cause);
  });
  return hashOfBytes(bytes);
}

/** Hexadecimal SHA-256. */
export function hashOfBytes(bytes: string | Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** Hexadecimal SHA-256 of a value as canonical JSON. */
export function hashOf(value: unknown): string {
  return hashOfBytes(canonicalJson(value));
}

/** All that decides a prediction or whether it is accepted, but for the score and the threshold; so does what later versions may add. */
function settingsOf(run: Partial<Run> & RunContent): unknown {
  const { format, versions, tuning, gate, training, notes, ...deciding } = run;
  const { score, threshold, rule, ...otherwise } = { ...gate };
  return {
    ...deciding,
    gate: otherwise,
    precision: training?.precision,
    channelsLast: training?.channelsLast,
    preprocessing: notes.preprocessing,
  };
}

function identityOf({ method, members, backbone, ensemble, notes }: Run): unknown {
  return { method, members, backbone, ensemble, data: notes.data };
}

/** Adds a file's name, and its content of any length. */
async function addFile(hash: Hash, folder: string, name: string): Promise<void> {
  const file = path.join(folder, name);
  try {
    const handle = await openRegular(file);
    hash.update(`${name.split(path.sep).join("/")}\n`);
    for await (const chunk of handle.createReadStream()) hash.update(chunk);
  } catch (cause) {
    throw ioError(file, "readable", cause);
  }
}
