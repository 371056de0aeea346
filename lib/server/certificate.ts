// A run's certificate in service: whether what it promises still holds, and what that makes of decisions.
import type { Prediction } from "../ensemble/prediction.js";
import type { Gated } from "../inference/record.js";
import {
  type Certificate,
  type CertificateFault,
  type CertificateVerdict,
  type ChosenSettings,
  certifiedSets,
  chosenOtherwise,
} from "../runs/certificate.js";
import type { Run } from "../runs/run.js";
import { type CertificateInForce, decide, type Gate, type GateDecision, watchedValues } from "../scores/gate.js";
import type { ScoreName } from "../scores/scores.js";
import type { SetThresholds } from "../sets/index.js";
import type { StreamWatch, Watched } from "./stream-watch.js";

/**
 * What may be said of a served run's certificate. `none`: it has none, or it was set aside by a gate of the service's own. `stale`: it is
 * damaged, or not of the run as it is. `void`: the alarm over the stream has gone off.
 */
export const CERTIFICATE_STATES = ["none", "valid", "stale", "void"] as const;

/** One of {@link CERTIFICATE_STATES}. */
export type CertificateState = (typeof CERTIFICATE_STATES)[number];

/** What is promised of an answer's decision, or why nothing is. */
export interface CertificateBrief {
  /** Whether it holds. */
  state: CertificateState;
  /** Why it does not. */
  message?: string;
  /** What is promised of what is accepted; not of one that is stale. */
  claim?: string;
  /** Largest share of failures. */
  alpha?: number;
  /** Chance that the promise is broken. */
  delta?: number;
  /** A case has failed where its Dice is below. */
  tau?: number;
}

/** All that the service knows of a certificate. */
export interface CertificateStatus extends CertificateBrief {
  /** Why it is stale or none. */
  reason?: CertificateFault;
  /** Which rule proved it. */
  rule?: string;
  /** The score that it asks, in the direction of confidence. */
  score?: ScoreName;
  /** Its least value for what is accepted. */
  threshold?: number;
  /** When it was made; ISO 8601. */
  date?: string;
  /** Since when it is void; ISO 8601. */
  voidSince?: string;
  /** Thresholds of inner and outer masks, by class, where it has any. */
  sets?: Record<number, SetThresholds>;
  /** Where the alarm stands. */
  alarm?: {
    /** Cases that were watched. */
    cases: number;
    /** A martingale that reaches it raises the alarm. */
    limit: number;
    /** By score, the martingale: 1 at the start. */
    values: Record<string, number>;
  };
}

/** A decision, and what is promised of it; nothing is said of it without a certificate. */
export interface Decided extends GateDecision {
  certificate?: CertificateBrief;
}

/** The certificate of one loaded state of a run. */
export class ServedCertificate {
  readonly #verdict: CertificateVerdict;
  readonly #run: Run;
  readonly #watch: { watch: StreamWatch; watched: Watched } | undefined;

  /** @param watch the alarm over the stream, of a verdict that is valid @internal */
  constructor(verdict: CertificateVerdict, run: Run, watch?: { watch: StreamWatch; watched: Watched }) {
    this.#verdict = verdict;
    this.#run = run;
    this.#watch = watch;
  }

  /** Whether it holds. */
  get state(): CertificateState {
    if (!this.#verdict.valid) return this.#verdict.reason === "none" ? "none" : "stale";
    return this.#watch?.watched.voidSince ? "void" : "valid";
  }

  /** The score that it asks; undefined where it does not hold for the run. */
  get score(): ScoreName | undefined {
    return this.#verdict.valid ? this.#verdict.certificate.score : undefined;
  }

  /** The scores that deciding and watching need. */
  get scores(): ScoreName[] {
    return this.#verdict.valid ? (Object.keys(this.#verdict.certificate.calibration) as ScoreName[]) : [];
  }

  /** All that is known of it. */
  get status(): CertificateStatus {
    const { state } = this;
    if (!this.#verdict.valid) {
      const { reason, message } = this.#verdict;
      return { state, reason, message };
    }
    const { claim, alpha, delta, tau, rule, score, threshold, date, sets } = this.#verdict.certificate;
    const { watched } = this.#watch as { watched: Watched };
    const { limit, streams } = watched.alarm.reading;
    const values = Object.fromEntries(Object.entries(streams).map(([name, { value }]) => [name, value]));
    return {
      ...{ state, claim, alpha, delta, tau, rule, score, threshold, date },
      ...(watched.voidSince && { message: VOID, voidSince: watched.voidSince }),
      ...(sets && { sets: sets.thresholds }),
      alarm: { cases: watched.alarm.cases, limit, values },
    };
  }

  /**
   * Takes a case into the stream, and decides on it: the case that raises the alarm is for a person already.
   * @param chosen what its request chose; nothing is promised of settings that were not certified, and the alarm does not see them
   * @internal
   */
  async decide(prediction: Gated<Prediction>, gate: Gate | undefined, chosen: ChosenSettings): Promise<Decided> {
    if (!this.#verdict.valid) {
      const { reason, message } = this.#verdict;
      return reason === "none" ? decide(prediction, gate) : decided(prediction, gate, { state: "stale", message });
    }
    const { certificate } = this.#verdict;
    if (chosenOtherwise(this.#run, chosen)) return decided(prediction, gate, { state: "stale", message: CHOSEN });
    const { watch, watched } = this.#watch as { watch: StreamWatch; watched: Watched };
    watch.observe(watched, watchedValues(prediction, certificate, gate));
    if (!watched.voidSince) return decided(prediction, gate, { ...certificate, state: "valid" });
    await watch.settled();
    return decided(prediction, gate, { ...certificate, state: "void", message: VOID });
  }

  /** Whether it has, or may have had, thresholds of inner and outer masks, in force or not. */
  get hasSets(): boolean {
    return this.#verdict.valid ? this.#verdict.certificate.sets !== undefined : this.state === "stale";
  }

  /**
   * Thresholds of inner and outer masks by class; undefined where there are none, or they are not in force.
   * @param chosen what a request chose
   * @internal
   */
  setsFor(chosen: ChosenSettings): Record<number, SetThresholds> | undefined {
    if (this.state !== "valid") return undefined;
    return certifiedSets(this.#verdict, this.#run, chosen).thresholds;
  }
}

const VOID =
  "The certificate is void: the alarm over the served cases has gone off, as they no longer look like those of the calibration. " +
  "Until a person renews it, every result is for a person.";
const CHOSEN =
  "The certificate is of the run's own settings; this request chose others (skip, fusion, tile, overlap, mirror).";

function decided(
  prediction: Gated<Prediction>,
  gate: Gate | undefined,
  certificate: CertificateInForce & Partial<Certificate> & { state: CertificateState },
): Decided {
  const { state, message, claim, alpha, delta, tau } = certificate;
  const brief = { state, message, claim, alpha, delta, tau };
  const said = Object.entries(brief).filter(([, value]) => value !== undefined);
  return {
    ...decide(prediction, gate, certificate),
    certificate: Object.fromEntries(said) as unknown as CertificateBrief,
  };
}
