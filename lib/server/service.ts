import path from "node:path";
import { PREDICTION_FUSIONS, type PredictionFusion } from "../ensemble/model.js";
import { MAP_NAMES, type Prediction } from "../ensemble/prediction.js";
import { LayerEnsemblesError } from "../errors.js";
import { checkGate, decide, type Gate, type GateDecision, isEmpty } from "../gate.js";
import { checkOptions, nearest, type OptionSpecs, option } from "../options.js";
import { type PredictionRecord, predictionRecord } from "../report/record.js";
import type { DeviceFlags } from "../runs/device.js";
import type { MapName } from "../uncertainty/index.js";
import { type AnswerType, type WrittenAnswer, writeAnswers } from "./answers.js";
import { ImagePool } from "./image-pool.js";
import { type ImageKind, OUTPUTS, type OutputFile, type OutputName, type SpatialPrediction } from "./image-work.js";
import type { InferAnswer } from "./kserve.js";
import { createMetrics, type Metrics } from "./metrics.js";
import type { Place } from "./queue.js";
import { loadModel, type ServedModel } from "./served-model.js";

/** What is served, and how much of it at a time. */
export interface ServiceOptions {
  /** Run folders; a name is the folder's own, or given as a key. */
  runs: readonly string[] | Readonly<Record<string, string>>;
  /** Images of one shape that share a pass. @default 8 */
  maxBatch?: number;
  /** Milliseconds that an image waits, at most, for others to share its pass while the model is idle. @default 4 */
  maxDelay?: number;
  /** Images of one model that are accepted and not yet answered; one more is refused. @default 64 */
  maxQueue?: number;
  /** Milliseconds from a request's head to its answer. @default 30000 */
  timeout?: number;
  /** Bytes of a request's body. @default 32 MiB */
  maxBody?: number;
  /** Pixels (voxels) of one image, as stored. @default 16777216 */
  maxPixels?: number;
  /** Images in one request, at most `maxQueue`. @default 16 */
  maxImages?: number;
  /** Threads that decode and encode images; 0 does it on the event loop. @default half of the cores, 1 to 4 */
  workers?: number;
  /** The gate of every run, in place of the one in its run.json; null for none. @default the run's */
  gate?: Gate | null;
  /** Where the models run. @default "auto" */
  device?: DeviceFlags["device"];
  /** @default "auto" */
  precision?: DeviceFlags["precision"];
  /** CPU threads of libtorch, for the whole process. @default one for each core */
  threads?: number;
}

/** The limits of a request. */
export type Limits = Required<Pick<ServiceOptions, "timeout" | "maxBody" | "maxPixels" | "maxImages">>;

/** What a request may choose. */
export interface RequestOptions {
  /** First heads to leave out. @default the run's */
  skip?: number;
  /** @default as tuned, else mean */
  fusion?: PredictionFusion;
  /** @default mask and entropy */
  outputs?: readonly OutputName[];
  /** Arrays (.npy) in place of pictures. @default false */
  arrays?: boolean;
  /** Stops the work. */
  signal?: AbortSignal;
  /** Milliseconds, from now. @default the service's */
  timeout?: number;
  /** Room in the model's queue that was reserved before. */
  place?: Place;
}

/** The answer for one image. */
export interface ImageAnswer {
  /** The image's name. */
  name: string;
  /** Null where there is no gate. */
  decision: GateDecision["decision"];
  /** Why a person should look, or why nothing was decided. */
  reasons: GateDecision["reasons"];
  /** What was compared with the threshold. */
  score: GateDecision["score"];
  /** Numbers; areas in pixels of the stored image. */
  record: PredictionRecord;
  /** Files of the stored size, by output: `mask`, `entropy`, `probabilities.lesion`, … */
  files: Record<string, OutputFile>;
}

const SERVICE: OptionSpecs = {
  runs: option.required(option.anyOf(option.array(option.string(), { min: 1 }), option.record(option.string()))),
  maxBatch: option.integer({ min: 1, max: 1024 }),
  maxDelay: option.number({ min: 0, max: 60_000 }),
  maxQueue: option.integer({ min: 1 }),
  timeout: option.number({ min: 1, max: 2 ** 31 - 1 }),
  maxBody: option.integer({ min: 1, max: 2 ** 31 - 1 }),
  maxPixels: option.integer({ min: 1 }),
  maxImages: option.integer({ min: 1, max: 1024 }),
  workers: option.integer({ min: 0, max: 256 }),
  gate: option.custom("a gate or null", (value) => typeof value === "object"),
  device: option.string(),
  precision: option.oneOf(["auto", "fp32", "bf16"]),
  threads: option.integer({ min: 1, max: 1024 }),
};

const REQUEST: OptionSpecs = {
  skip: option.integer({ min: 0 }),
  fusion: option.oneOf(PREDICTION_FUSIONS),
  outputs: option.array(option.oneOf(OUTPUTS)),
  arrays: option.boolean(),
  signal: option.signal(),
  timeout: option.number({ above: 0 }),
  place: option.custom("a place of the queue", (value) => typeof value === "object"),
};

/**
 * Trained runs, ready to answer: image bytes in, decision, numbers and pictures out. The HTTP routes are made of it
 * ({@link createServer}, {@link routes}); any other framework can call it directly.
 *
 * ```ts
 * const service = await PredictionService.open({ runs: ["runs/busi"], gate: { score: "aula", threshold: 6 } });
 * const { decision, reasons, files } = await service.predict("busi", await readFile("image.png"));
 * await service.close();
 * ```
 */
export class PredictionService {
  /** Counters and histograms. */
  readonly metrics: Metrics;
  /** As given, or the defaults. */
  readonly limits: Readonly<Limits>;
  readonly #models: Map<string, ServedModel>;
  readonly #pool: ImagePool;
  readonly #load: (name: string, folder: string, version: number) => Promise<ServedModel>;
  readonly #reloads = new Map<string, Promise<void>>();
  /** Former states of reloaded runs that still finish what they accepted. */
  readonly #retired = new Set<Promise<void>>();
  #closed: Promise<void> | undefined;

  private constructor(parts: {
    metrics: Metrics;
    limits: Limits;
    models: Map<string, ServedModel>;
    pool: ImagePool;
    load(name: string, folder: string, version: number): Promise<ServedModel>;
  }) {
    this.metrics = parts.metrics;
    this.limits = parts.limits;
    this.#models = parts.models;
    this.#pool = parts.pool;
    this.#load = parts.load;
  }

  /**
   * Loads the runs.
   * @throws ERR_LE_OPTION, ERR_LE_CHECKPOINT, ERR_LE_DEVICE, …
   */
  static async open(options: ServiceOptions): Promise<PredictionService> {
    checkOptions("PredictionService.open", options, SERVICE);
    const { gate, device, precision, threads, maxBatch, maxDelay, maxQueue, timeout = 30_000 } = options;
    if (gate) checkGate(gate);
    const { maxBody = 32 * 2 ** 20, maxPixels = 2 ** 24 } = options;
    // More than the queue holds would never be let in.
    const maxImages = Math.min(options.maxImages ?? 16, maxQueue ?? 64);
    const runs = nameRuns(options.runs);
    const models = new Map<string, ServedModel>();
    const metrics = await createMetrics(function* () {
      for (const { name, queue } of models.values())
        yield { model: name, accepted: queue.accepted, waiting: queue.waiting };
    });
    const load = (name: string, folder: string, version: number) =>
      loadModel(name, folder, version, {
        ...(gate !== undefined && { gate }),
        device: { ...(device && { device }), ...(precision && { precision }), ...(threads && { threads }) },
        queue: {
          ...(maxBatch !== undefined && { maxBatch }),
          ...(maxDelay !== undefined && { maxDelay }),
          ...(maxQueue !== undefined && { maxQueue }),
          timeout,
          onBatch: (event) => metrics.batch(name, event),
        },
      });
    const pool = await ImagePool.create(options.workers);
    try {
      for (const [name, folder] of runs) models.set(name, await load(name, folder, 1));
    } catch (error) {
      await Promise.all([...models.values()].map((model) => model.close()));
      await pool.close();
      throw error;
    }
    return new PredictionService({ metrics, limits: { timeout, maxBody, maxPixels, maxImages }, models, pool, load });
  }

  /** The models, in the order given. */
  get models(): ServedModel[] {
    return [...this.#models.values()];
  }

  /** Whether nothing more is accepted. */
  get closing(): boolean {
    return this.#closed !== undefined;
  }

  /**
   * A model by name; without a name the only one.
   * @throws ERR_LE_OPTION where there is none of that name
   */
  model(name?: string): ServedModel {
    const names = [...this.#models.keys()];
    const found = name === undefined && names.length === 1 ? names[0] : name;
    const model = found === undefined ? undefined : this.#models.get(found);
    if (model) return model;
    const near = name === undefined ? undefined : nearest(name, names);
    const hint = near ? ` Did you mean ${near}?` : "";
    const received = name === undefined ? "none" : JSON.stringify(name.slice(0, 100));
    throw new LayerEnsemblesError(
      "ERR_LE_OPTION",
      `Expected the name of a model (${names.join(", ")}) but received ${received}.${hint}`,
    );
  }

  /**
   * Segments one image as its run's training saw images, and says whether a person should look.
   * @param model A model's name, or a model that {@link PredictionService.model} gave.
   * @param image The bytes of a PNG, JPEG, TIFF or .npy file.
   * @param name The image's name, for messages and the answer.
   * @throws ERR_LE_DATA, ERR_LE_SHAPE, ERR_LE_VALUE, ERR_LE_TOO_LARGE, ERR_LE_OPTION, ERR_LE_BUSY, ERR_LE_TIMEOUT, ERR_LE_DISPOSED,
   * `signal.reason`
   */
  async predict(
    model: string | ServedModel | undefined,
    image: Uint8Array,
    options: RequestOptions = {},
    name = "image",
  ): Promise<ImageAnswer> {
    checkOptions("predict", options, REQUEST);
    const served = typeof model === "object" ? model : this.model(model);
    const { outputs = ["mask", "entropy"], arrays = false, signal, place } = options;
    const started = performance.now();
    const own = place ? undefined : served.queue.reserve();
    try {
      const kind = this.#kind(served);
      const display = outputs.includes("overlay");
      const task = { bytes: image, name, kind, display };
      const prepared = await this.#timed("prepare", () => this.#pool.run("prepare", task));
      signal?.throwIfAborted();
      const wanted = MAP_NAMES.filter((map) => outputs.includes(map));
      const held = { ...options, place: place ?? own } as RequestOptions & { place: Place };
      const prediction = await this.#predict(served, prepared.input, wanted, held, started);
      const gated = decide(prediction, served.gate);
      const { classNames, ignoreIndex } = served.notes;
      const spatial = spatialPart(prediction, wanted);
      const { placement } = prepared;
      const { extent, files } = await this.#timed("finish", () =>
        this.#pool.run("finish", {
          prediction: spatial,
          prepared: { placement, ...(prepared.display && { display: prepared.display }) },
          outputs,
          arrays,
          classNames,
          ignoreIndex,
        }),
      );
      signal?.throwIfAborted();
      this.metrics.quality(served.name, prediction, gated.decision);
      return { name, ...gated, record: predictionRecord(prediction, extent, classNames), files };
    } finally {
      own?.release();
    }
  }

  /**
   * Writes the answers for a request's images. JSON holds every file in base64; multipart has a part `answer` of the same JSON
   * without files, and one for each file; an .npz archive has an array for each file.
   */
  async write(
    type: AnswerType,
    { name, version }: ServedModel,
    images: readonly ImageAnswer[],
  ): Promise<WrittenAnswer> {
    const task = { type, model: name, version, images };
    const bytes = images.flatMap(({ files }) => Object.values(files)).reduce((sum, file) => sum + file.bytes.length, 0);
    // What is small is written sooner than it is handed over.
    return bytes < 2 ** 19 ? writeAnswers(task) : this.#timed("finish", () => this.#pool.run("writeAnswers", task));
  }

  /**
   * Answers an infer request of the Open Inference Protocol (KServe v2).
   * @param body JSON, or JSON of `headerLength` bytes followed by binary tensors
   * @throws as {@link predict}
   */
  async infer(
    served: ServedModel,
    body: Uint8Array,
    {
      headerLength,
      place,
      signal,
      timeout,
    }: Pick<RequestOptions, "signal" | "timeout"> & { headerLength?: number; place: Place },
  ): Promise<
    InferAnswer & {
      /** The gate's, in the order of the images; null without one. */
      decisions: GateDecision["decision"][];
    }
  > {
    const started = performance.now();
    const { maxImages } = this.limits;
    const task = {
      bytes: body,
      kind: this.#kind(served),
      maxImages,
      ...(headerLength !== undefined && { headerLength }),
    };
    const { id, outputs, images } = await this.#timed("prepare", () => this.#pool.run("parseInfer", task));
    signal?.throwIfAborted();
    place.grow(images.length - 1);
    const wanted = MAP_NAMES.filter((map) => outputs.some(({ name }) => name === map));
    const held = { place, ...(signal && { signal }), ...(timeout !== undefined && { timeout }) };
    const results = await Promise.all(
      images.map(async ({ input, placement }) => {
        const prediction = await this.#predict(served, input, wanted, held, started);
        const { decision } = decide(prediction, served.gate);
        this.metrics.quality(served.name, prediction, decision);
        return {
          prediction: spatialPart(prediction, wanted),
          placement,
          aula: prediction.aula?.value ?? Number.NaN,
          aulaNormalised: prediction.aula?.normalised ?? Number.NaN,
          pairwiseAgreement: prediction.pairwiseAgreement.overall,
          softDiceConfidence: prediction.softDiceConfidence.overall,
          empty: isEmpty(prediction),
          decision: decision ?? "",
        };
      }),
    );
    const answer = await this.#timed("finish", () =>
      this.#pool.run("writeInfer", {
        model: served.name,
        version: String(served.version),
        ...(id !== undefined && { id }),
        outputs,
        results,
      }),
    );
    signal?.throwIfAborted();
    return { ...answer, decisions: results.map(({ decision }) => (decision || null) as GateDecision["decision"]) };
  }

  /**
   * Loads a run's folder again and serves it from then on. Requests that the former state accepted are answered by it; where the
   * new one cannot be loaded, the former stays.
   * @throws ERR_LE_OPTION, ERR_LE_CHECKPOINT, ERR_LE_DISPOSED
   */
  reload(name?: string): Promise<void> {
    const { name: known } = this.model(name);
    const before = this.#reloads.get(known) ?? Promise.resolve();
    const reload = before
      .catch(() => {})
      .then(async () => {
        if (this.closing)
          throw new LayerEnsemblesError(
            "ERR_LE_DISPOSED",
            "Expected a service in use but received one that is closed.",
          );
        const former = this.model(known);
        const loaded = await this.#load(known, former.folder, former.version + 1);
        this.#models.set(known, loaded);
        const retired = former.close().finally(() => this.#retired.delete(retired));
        this.#retired.add(retired);
      });
    this.#reloads.set(known, reload);
    return reload;
  }

  /** Accepts nothing more, finishes what was accepted, and frees the models. */
  close(): Promise<void> {
    this.#closed ??= (async () => {
      await Promise.allSettled(this.#reloads.values());
      await Promise.all([...this.#models.values()].map((model) => model.close()));
      await Promise.all(this.#retired);
      await this.#pool.close();
    })();
    return this.#closed;
  }

  #kind({ notes, spatialAxes }: ServedModel): ImageKind {
    return { preprocessing: notes.preprocessing, spatialAxes, maxPixels: this.limits.maxPixels };
  }

  #predict(
    { queue, gate }: ServedModel,
    input: Parameters<typeof queue.predict>[0],
    wanted: readonly MapName[],
    { skip, fusion, signal, timeout = this.limits.timeout, place }: RequestOptions & { place: Place },
    started: number,
  ): Promise<Prediction> {
    // The mean entropy is a metric; the gate may look at another map.
    const gated = gate?.score?.split(".")[0];
    const maps = MAP_NAMES.filter((map) => map === "entropy" || map === gated || wanted.includes(map));
    return queue.predict(input, {
      ...(skip !== undefined && { skip }),
      ...(fusion !== undefined && { fusion }),
      maps,
      ...(signal && { signal }),
      timeout: Math.max(1, timeout - (performance.now() - started)),
      place,
    });
  }

  async #timed<T>(stage: "prepare" | "finish", work: () => Promise<T>): Promise<T> {
    const started = performance.now();
    try {
      return await work();
    } finally {
      this.metrics.stages.observe({ stage }, (performance.now() - started) / 1000);
    }
  }
}

function spatialPart({ probabilities, maps }: Prediction, wanted: readonly MapName[]): SpatialPrediction {
  const kept = Object.fromEntries(wanted.map((map) => [map, maps[map]]));
  return { probabilities: probabilities as SpatialPrediction["probabilities"], maps: kept };
}

function nameRuns(runs: ServiceOptions["runs"]): [name: string, folder: string][] {
  const named = Array.isArray(runs)
    ? (runs as readonly string[]).map((folder): [string, string] => [path.basename(path.resolve(folder)), folder])
    : Object.entries(runs as Readonly<Record<string, string>>);
  const seen = new Set<string>();
  for (const [name] of named) {
    if (!/^[\p{L}\p{N}._-]{1,100}$/u.test(name))
      throw new LayerEnsemblesError(
        "ERR_LE_OPTION",
        `Expected a name of letters, digits, ".", "_" and "-" for a run but received ${JSON.stringify(name)}.`,
      );
    if (seen.has(name))
      throw new LayerEnsemblesError(
        "ERR_LE_OPTION",
        `Expected runs of different names but received "${name}" twice. Name them: NAME=FOLDER.`,
      );
    seen.add(name);
  }
  if (named.length === 0)
    throw new LayerEnsemblesError("ERR_LE_OPTION", "Expected at least one run but received none.");
  return named;
}
