import type { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { Prediction } from "../ensemble/prediction.js";
import { IMAGE_SCORE_NAMES, SCORES, scoreOf, snake } from "../scores/scores.js";
import { CERTIFICATE_STATES } from "./certificate.js";
import type { BatchEvent } from "./queue.js";
import type { ServedModel } from "./served-model.js";

/** The parts of a request: reading the body, decoding and preparing, waiting, the model, restoring and encoding. */
export type Stage = "read" | "prepare" | "wait" | "predict" | "finish";

/** What is counted, in Prometheus' form. Each service has a registry of its own. */
export interface Metrics {
  /** All of them, and those of the process; `registry.metrics()` is their text. */
  registry: Registry;
  /** Seconds from a request's head to its answer. */
  requests: Histogram<"route" | "status">;
  /** Seconds of each part of a prediction. */
  stages: Histogram<"stage">;
  /** Requests refused or given up, by error code. */
  rejections: Counter<"code">;
  /** Counts one pass of a model. */
  batch(model: string, event: BatchEvent): void;
  /** Dice of audited cases. */
  outcomes: Histogram<"model">;
  /** Counts the quality signals of one result; their drift tells of images unlike those of before. */
  quality(model: string, prediction: Prediction, decision: string | null): void;
}

const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
const SHARES = [0, 0.001, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1];

/** @param models asked when the metrics are read */
export async function createMetrics(models: () => Iterable<ServedModel>): Promise<Metrics> {
  const prometheus = await import("prom-client");
  const registry = new prometheus.Registry();
  prometheus.collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: 5 });
  const registers = [registry];
  const name = (end: string) => `layer_ensembles_${end}`;
  const histogram = <T extends string>(
    end: string,
    help: string,
    buckets: number[],
    ...labelNames: T[]
  ): Histogram<T> => new prometheus.Histogram({ name: name(end), help, buckets, labelNames, registers });
  const counter = <T extends string>(end: string, help: string, ...labelNames: T[]): Counter<T> =>
    new prometheus.Counter({ name: name(end), help, labelNames, registers });
  /** @param of a model's values, each with what its other labels are */
  const gauge = <T extends string>(
    end: string,
    help: string,
    of: (model: ServedModel) => readonly (readonly [value: number, labels?: Record<T, string>])[],
    ...labelNames: T[]
  ): Gauge<"model" | T> =>
    new prometheus.Gauge({
      name: name(end),
      help,
      labelNames: ["model", ...labelNames],
      registers,
      collect() {
        this.reset();
        for (const model of models())
          for (const [value, labels] of of(model))
            this.set({ model: model.name, ...labels } as Record<"model" | T, string>, value);
      },
    });
  gauge("queue_accepted", "Images accepted and not yet answered", ({ queue }) => [[queue.accepted]]);
  gauge("queue_waiting", "Images that wait for the model", ({ queue }) => [[queue.waiting]]);
  gauge(
    "certificate_state",
    "1 for the state of the run's certificate, 0 for the others",
    ({ certificate }) => CERTIFICATE_STATES.map((state) => [Number(state === certificate.state), { state }]),
    "state",
  );
  gauge(
    "martingale",
    "How strange the served cases have been beside the calibration's, 1 at the start; at martingale_limit the certificate is void",
    ({ certificate }) =>
      Object.entries(certificate.status.alarm?.values ?? {}).map(([score, value]) => [value, { score: snake(score) }]),
    "score",
  );
  gauge("martingale_limit", "From which martingale on the certificate is void", ({ certificate: { status } }) =>
    status.alarm ? [[status.alarm.limit]] : [],
  );
  const requests = histogram(
    "request_seconds",
    "Seconds from a request's head to its answer",
    SECONDS,
    "route",
    "status",
  );
  const stages = histogram("stage_seconds", "Seconds of a part of a prediction", SECONDS, "stage");
  const rejections = counter("rejections_total", "Requests refused or given up, by error code", "code");
  const batches = histogram("batch_size", "Images that shared a pass", [1, 2, 4, 8, 16, 32, 64], "model");
  const images = counter("images_total", "Images predicted, by the gate's decision", "model", "decision");
  const empties = counter("empty_total", "Results in which no head finds any foreground", "model");
  const shares = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 1];
  const bounded = IMAGE_SCORE_NAMES.filter((score) => SCORES[score].range.join() === "0,1");
  const scores = bounded.map((score) => ({ score, of: histogram(snake(score), SCORES[score].text, shares, "model") }));
  const entropy = histogram("mean_entropy", "Mean entropy of the fused probabilities, in nats", SHARES, "model");
  const foreground = histogram("foreground_share", "Share of the pixels predicted as foreground", SHARES, "model");
  const observe = (of: Histogram<"model">, model: string, value: number | undefined) => {
    if (value !== undefined && Number.isFinite(value)) of.observe({ model }, value);
  };
  return {
    registry,
    requests,
    stages,
    rejections,
    outcomes: histogram("outcome_dice", "Dice of audited cases", shares, "model"),
    batch(model, { size, seconds, waited }) {
      batches.observe({ model }, size);
      for (const wait of waited) {
        stages.observe({ stage: "wait" }, wait);
        stages.observe({ stage: "predict" }, seconds);
      }
    },
    quality(model, prediction, decision) {
      images.inc({ model, decision: decision ?? "none" });
      if (prediction.empty) empties.inc({ model });
      for (const { score, of } of scores) observe(of, model, scoreOf(prediction, score));
      observe(entropy, model, prediction.summaries.entropy?.mean);
      const { data } = prediction.mask;
      let count = 0;
      // Not for…of: of a large image it would keep the event loop waiting.
      for (let i = 0; i < data.length; i++) if (data[i] !== 0) count++;
      observe(foreground, model, count / data.length);
    },
  };
}
