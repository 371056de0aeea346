// The certificates of all runs of a service: read with each run, and watched over its loads.
import { existsSync } from "node:fs";
import path from "node:path";
import { LayerEnsemblesError } from "../errors.js";
import { alarmFolder } from "../runs/alarm.js";
import { type CertificateVerdict, inPrecision, verifyCertificate } from "../runs/certificate.js";
import { type RunHashes, runHashes } from "../runs/identity.js";
import { predictorOf } from "../runs/outcomes.js";
import { RUN_FILES } from "../runs/run.js";
import { ServedCertificate } from "./certificate.js";
import type { LoadedModel, ServedModel } from "./served-model.js";
import { StreamWatch } from "./stream-watch.js";

/** What becomes of the alarm over a run's cases. */
export interface AlarmEvent {
  /** The run's name. */
  model: string;
  /** `void`: it goes off, and the certificate is void. `trouble`: where it stands cannot be read, or not be written at the moment. */
  what: "void" | "trouble";
  /** Of `trouble`. */
  error?: unknown;
}

/** How certificates are kept. */
export interface CertificateOptions {
  /** Whether the service has a gate of its own, which nothing is promised of. */
  setAside: boolean;
  /** Folder of the alarms, by the names of their runs. @default in each run */
  state?: string | undefined;
  /** Whether outcomes are taken, which say of which predictor they are. */
  outcomes: boolean;
  /** Called where an alarm goes off, or cannot be kept. */
  onAlarm(event: AlarmEvent): void;
}

/** The certificates of a service's runs. */
export class Certificates {
  readonly #options: CertificateOptions;
  /** By name; they outlive a reload. */
  readonly #watches = new Map<string, StreamWatch>();

  constructor(options: CertificateOptions) {
    this.#options = options;
  }

  /**
   * Loads a run with its certificate. One that is another after the load than before may not be of what was loaded.
   * @throws what loading throws; ERR_LE_IO, ERR_LE_BUSY where the alarm cannot be kept
   */
  async load(name: string, folder: string, load: () => Promise<LoadedModel>): Promise<ServedModel> {
    const before = await this.#look(folder);
    const model = await load();
    try {
      const after = await this.#look(folder);
      const same = before.verdict.valid === after.verdict.valid && before.key === after.key;
      const predictors = [before, after].map(({ hashes }) => hashes && predictorOf(hashes, model));
      const [predictor] = predictors;
      if (predictor !== predictors[1])
        throw new LayerEnsemblesError(
          "ERR_LE_CHECKPOINT",
          `Expected ${folder} to stay as it was while it was loaded but received another run there: load it again.`,
        );
      return {
        ...model,
        certificate: await this.#serve(name, same ? after.verdict : CHANGED, model),
        ...(predictor !== undefined && { predictor }),
      };
    } catch (error) {
      await model.close();
      throw error;
    }
  }

  /** Writes where the alarms stand, and gives their folders back. */
  async close(): Promise<void> {
    await Promise.all([...this.#watches.values()].map((watch) => watch.close()));
  }

  /** What is to be the same before and after a load. */
  async #look(folder: string): Promise<{ verdict: CertificateVerdict; key: string; hashes: RunHashes | undefined }> {
    const verdict = await this.#verdict(folder);
    const key = verdict.valid ? verdict.certificate.digest : verdict.reason;
    return { verdict, key, hashes: this.#options.outcomes ? await runHashes(folder) : undefined };
  }

  async #verdict(folder: string): Promise<CertificateVerdict> {
    if (!existsSync(path.join(folder, RUN_FILES.certificate)))
      return { valid: false, reason: "none", message: "The run has no certificate." };
    if (this.#options.setAside)
      return {
        valid: false,
        reason: "none",
        message: "The run's certificate is set aside: the service has a gate of its own.",
      };
    return verifyCertificate(folder);
  }

  async #serve(
    name: string,
    ofRun: CertificateVerdict,
    { folder, run, precision }: LoadedModel,
  ): Promise<ServedCertificate> {
    const verdict = inPrecision(ofRun, precision);
    if (!verdict.valid) return new ServedCertificate(verdict, run);
    const { state, onAlarm } = this.#options;
    const listener = {
      onVoid: () => onAlarm({ model: name, what: "void" }),
      onTrouble: (error: unknown) => onAlarm({ model: name, what: "trouble", error }),
    };
    const watch =
      this.#watches.get(name) ??
      (await StreamWatch.open(alarmFolder(folder, state && path.join(state, name)), listener));
    this.#watches.set(name, watch);
    return new ServedCertificate(verdict, run, { watch, watched: await watch.begin(verdict.certificate) });
  }
}

const CHANGED: CertificateVerdict = {
  valid: false,
  reason: "stale-weights",
  message: "The run or its certificate changed while it was loaded: load it again.",
};
