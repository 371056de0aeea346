import os from "node:os";
import path from "node:path";
import { atOwnSize } from "../data/own-size.js";
import { isVolume } from "../data/preprocess.js";
import { straightOutput } from "../data/volume.js";
import { PREDICT, type PredictOptions } from "../ensemble/model.js";
import type { Prediction } from "../ensemble/prediction.js";
import { LayerEnsemblesError } from "../errors.js";
import type { PredictionFusion } from "../fusion/index.js";
import { type DeviceFlags, placement } from "../inference/device.js";
import {
  type Gated,
  gated,
  type PlaceRecord,
  type PredictionRecord,
  placeRecord,
  predictionRecord,
} from "../inference/record.js";
import { type About, checkOptions, defaultsOf, nearest, type OptionSpecs, option } from "../options.js";
import { type ChosenSettings, chosenOtherwise } from "../runs/certificate.js";
import { inOwnWay } from "../runs/tiles.js";
import { acceptability, checkGate, type GateDecision, watchedOf } from "../scores/gate.js";
import { confidenceOf, IMAGE_SCORE_NAMES, SCORES, scoreOf, snake } from "../scores/scores.js";
import { checkThresholds, SET_NAMES, SETS, type SetThresholds, thresholdsOf } from "../sets/index.js";
import type { MapName } from "../uncertainty/index.js";
import { MAP_NAMES } from "../uncertainty/index.js";
import { type AnswerType, type WrittenAnswer, writeAnswers } from "./answers.js";
import { Budget, type Held } from "./budget.js";
import type { CertificateBrief, Decided } from "./certificate.js";
import { Certificates } from "./certificates.js";
import { imageCost, inferBytes, outputBytes, product, writingCost } from "./costs.js";
import type { FormFile } from "./form.js";
import { defaultWorkers, ImagePool, LARGE, threadsOf } from "./image-pool.js";
import {
  checkSize,
  type ImageKind,
  type ImageSize,
  OUTPUTS,
  type OutputFile,
  type OutputName,
  quickMeasure,
  type SpatialPrediction,
  wantsSets,
} from "./image-work.js";
import type { InferAnswer } from "./kserve.js";
import { createMetrics, type Metrics } from "./metrics.js";
import { checkOutcomes, type OutcomeOptions, Outcomes } from "./outcomes.js";
import type { Place } from "./queue.js";
import { tryRun } from "./run-trial.js";
import { loadModel, type ServedModel } from "./served-model.js";
import { SERVICE, type ServiceOptions } from "./service-options.js";
import { byTiles, checkPasses, TILE_CHOICES, type TileChoices, tilesOf } from "./tiles.js";
import { ownBuffersGently } from "./transfer.js";

/** The limits of a request. */
export type Limits = Required<
  Pick<
    ServiceOptions,
    "timeout" | "maxBody" | "maxPixels" | "maxSide" | "maxImages" | "maxPasses" | "maxMemory" | "maxQueue" | "workers"
  >
>;

/** What is served, where, and within which limits. */
export interface ServiceSummary {
  /** The models; a gate as `SCORE:THRESHOLD`, a certificate by its state. */
  models: Record<"name" | "version" | "method" | "gate" | "certificate", string | number | null>[];
  /** As asked for. */
  device: string;
  /** As asked for. */
  precision: string;
  /** CPU threads of libtorch. */
  threads: number;
  /** Of a request. */
  limits: Readonly<Limits>;
  /** Bytes that the process takes at most on top of what it has when it is ready, beside the models' passes. */
  memoryBound: number;
}

/** What a request may choose. */
export interface RequestOptions extends TileChoices {
  /** First heads to leave out. @default the run's */
  skip?: number;
  /** @default as tuned, else mean */
  fusion?: PredictionFusion;
  /** @default mask and entropy */
  outputs?: readonly OutputName[];
  /** λ of the inner and of the outer mask, from 0 to 1, null for none. @default as certified */
  sets?: readonly (number | null)[];
  /** Arrays (.npy) in place of pictures. @default false */
  arrays?: boolean;
  /** Stops the work. */
  signal?: AbortSignal;
  /** Milliseconds, from now. @default the service's */
  timeout?: number;
  /** Room in the model's queue that was reserved before. */
  place?: Place;
  /** Memory of the answer; grows by what an image's files take. */
  held?: Held;
}

/** The answer for one image. */
export interface ImageAnswer {
  /** The image's name. */
  name: string;
  /** By which its outcome may be told; only where these are taken, of predictions with the run's own settings. */
  id?: string;
  /** Null where there is no gate. */
  decision: GateDecision["decision"];
  /** Why a person should look, or why nothing was decided. */
  reasons: GateDecision["reasons"];
  /** What was compared with the threshold. */
  score: GateDecision["score"];
  /** What is promised of the decision; nothing is said of it without a certificate. */
  certificate?: CertificateBrief;
  /** Numbers; areas in pixels of the stored image. */
  record: PredictionRecord & {
    /** Where a volume lies, where its file says it. */
    place?: PlaceRecord;
  };
  /** Files of the stored size, by output: `mask`, `entropy`, `probabilities.lesion`, … */
  files: Record<string, OutputFile>;
}

/** What a client may choose of a prediction: the routes read it from the query. */
export const CHOICES = {
  skip: option.with(PREDICT.skip, { text: "First heads to leave out" }),
  fusion: option.with(PREDICT.fusion, { text: "How heads are fused" }),
  sets: option.with(SETS, {
    text: "Thresholds of inner and outer masks, from 0 to 1; none in the place of one",
    otherwise: "as certified",
    arg: "inner,outer",
  }),
  ...TILE_CHOICES,
  outputs: distinctOutputs({ text: "Files of the answer, each once", default: ["mask", "entropy"] }),
};

const REQUEST: OptionSpecs = {
  ...CHOICES,
  arrays: option.boolean(),
  signal: option.signal(),
  timeout: option.number({ above: 0 }),
  place: option.custom("a place of the queue", (value) => typeof value === "object"),
  held: option.custom("memory of a budget", (value) => typeof value === "object"),
};

/** Each of the outputs at most once: what is asked for twice would be made twice. */
function distinctOutputs<const A extends About<readonly OutputName[]>>(about: A) {
  const list = option.array(option.oneOf(OUTPUTS), about);
  return {
    ...list,
    expected: `distinct values of ${OUTPUTS.join(", ")}`,
    accepts: (value: unknown) => list.accepts(value) && new Set(value as string[]).size === (value as string[]).length,
  };
}

/** What {@link ServiceOptions.maxMemory} is for, in shares. */
export const MEMORY_SHARES = {
  /** Bodies, until their images are decoded. */
  bodies: 1 / 8,
  /** Inputs and results of the model, from decoding to the answer. */
  images: 1 / 4,
  /** What is decoded, restored and encoded at the moment. */
  work: 3 / 8,
  /** Files of answers, until they are sent. */
  answers: 1 / 4,
} as const;

/** What the process may take beside {@link ServiceOptions.maxMemory} on top of what it has when it is ready, in bytes. */
function memoryBeside(threads: number, heap: number): number {
  // Objects of each thread, and its small tasks; objects of the main thread, and what allocators keep.
  return threads * (heap + LARGE) + 2 ** 28;
}

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
  /** What requests hold, by kind. */
  readonly memory: Readonly<Record<"bodies" | "images" | "answers", Budget>> & {
    /** Bytes that the process takes at most on top of what it has when it is ready, beside the models' passes. */
    readonly bound: number;
  };
  /** Of audited cases; undefined where none are taken. @internal */
  readonly outcomes: Outcomes | undefined;
  readonly #models: Map<string, ServedModel>;
  readonly #pool: ImagePool;
  /** Of tasks; the pool keeps it. */
  readonly #work: Budget;
  readonly #load: (name: string, folder: string, version: number) => Promise<ServedModel>;
  readonly #device: DeviceFlags;
  readonly #certificates: Certificates;
  readonly #reloads = new Map<string, Promise<void>>();
  readonly #waitingReloads = new Map<string, Promise<void>>();
  readonly #closing = new AbortController();
  /** Former states of reloaded runs that still finish what they accepted. */
  readonly #retired = new Set<Promise<void>>();
  #closed: Promise<void> | undefined;

  private constructor(parts: {
    metrics: Metrics;
    limits: Limits;
    models: Map<string, ServedModel>;
    pool: ImagePool;
    device: DeviceFlags;
    certificates: Certificates;
    outcomes: OutcomeOptions | undefined;
    load(name: string, folder: string, version: number): Promise<ServedModel>;
  }) {
    this.metrics = parts.metrics;
    this.limits = parts.limits;
    this.#models = parts.models;
    this.#pool = parts.pool;
    this.outcomes = parts.outcomes && new Outcomes(parts.outcomes, (task) => this.#pool.run("judgeMask", task));
    const { maxMemory, workers } = parts.limits;
    this.memory = {
      bodies: new Budget("bodies", MEMORY_SHARES.bodies * maxMemory),
      images: new Budget("images", MEMORY_SHARES.images * maxMemory),
      answers: new Budget("answers", MEMORY_SHARES.answers * maxMemory),
      bound: maxMemory + (this.outcomes?.bytes ?? 0) + memoryBeside(threadsOf(workers), heapOf(parts.limits)),
    };
    this.#work = new Budget("work", MEMORY_SHARES.work * maxMemory);
    this.#device = parts.device;
    this.#certificates = parts.certificates;
    this.#load = parts.load;
  }

  /**
   * Loads the runs.
   * @throws ERR_LE_OPTION, ERR_LE_CHECKPOINT, ERR_LE_DEVICE, …
   */
  static async open(options: ServiceOptions): Promise<PredictionService> {
    const given = checkOptions("PredictionService.open", options, SERVICE);
    const { gate, state, outcomes, onAlarm = () => {}, threads } = given;
    if (gate) checkGate(gate);
    const own = { maxMemory: defaultMemory(), workers: defaultWorkers() };
    const { maxBatch, maxDelay, ...rest } = { ...defaultsOf(SERVICE), ...own, ...given };
    const { timeout, maxBody, maxPixels, maxSide, maxPasses, maxMemory, maxQueue, workers } = rest;
    // More than the queue holds would never be let in.
    const maxImages = Math.min(rest.maxImages, maxQueue);
    const limits = { timeout, maxBody, maxPixels, maxSide, maxImages, maxPasses, maxMemory, maxQueue, workers };
    const runs = nameRuns(given.runs);
    const models = new Map<string, ServedModel>();
    const metrics = await createMetrics(() => models.values());
    const certificates = new Certificates({
      setAside: gate !== undefined,
      state,
      outcomes: outcomes !== undefined,
      onAlarm,
    });
    const placed = { ...placement(given), ...(threads && { threads }) };
    const load = async (name: string, folder: string, version: number) => {
      if (outcomes) await checkOutcomes(folder);
      return certificates.load(name, folder, () =>
        loadModel(name, folder, version, {
          ...(gate !== undefined && { gate }),
          device: placed,
          queue: {
            ...{ maxBatch, maxDelay, maxQueue, timeout },
            // A pass of many takes no more than one of the largest image.
            maxBatchPixels: maxPixels,
            onBatch: (event) => metrics.batch(name, event),
          },
        }),
      );
    };
    const pool = await ImagePool.create({
      workers,
      bytes: MEMORY_SHARES.work * maxMemory,
      heap: heapOf(limits) / 2 ** 20,
    });
    try {
      for (const [name, folder] of runs) models.set(name, await load(name, folder, 1));
    } catch (error) {
      await Promise.all([...models.values()].map((model) => model.close()));
      await certificates.close();
      await pool.close();
      throw error;
    }
    return new PredictionService({ metrics, limits, models, pool, load, certificates, outcomes, device: placed });
  }

  /** What is served, where, and within which limits, in plain JSON: for a log. */
  get summary(): ServiceSummary {
    return {
      models: this.models.map(({ name, version, run, gate, certificate }) => ({
        name,
        version,
        method: run.method,
        gate: gate ? `${gate.score ?? "aula"}:${gate.threshold}` : null,
        certificate: certificate.state,
      })),
      device: this.#device.device ?? "auto",
      precision: this.#device.precision ?? "as trained",
      threads: this.#device.threads ?? os.availableParallelism(),
      limits: this.limits,
      memoryBound: this.memory.bound,
    };
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
    const { outputs = CHOICES.outputs.default, arrays = false, timeout = this.limits.timeout, place, held } = options;
    const started = performance.now();
    const own = place ? undefined : served.queue.reserve();
    // The routes have a deadline of their own, from the request's head on.
    const limit = held && options.signal ? undefined : deadline(timeout, options.signal);
    const signal = limit?.signal ?? (options.signal as AbortSignal);
    const left = () => Math.max(1, timeout - (performance.now() - started));
    const returns: (() => void)[] = [];
    if (own) returns.push(own.release);
    if (limit) returns.push(limit.clear);
    try {
      const kind = this.#kind(served, options);
      checkSets(served, outputs, options);
      const size = quickMeasure(image, name) ?? (await this.#pool.run("measure", { bytes: image, name }, { signal }));
      const cost = this.#cost(size, image.length, kind, outputs, arrays);
      const done = this.#pool.book(cost.prepare + cost.finish, left());
      returns.push(done);
      const room = await this.memory.images.wait(cost.held, signal);
      returns.push(() => room.release());
      const display = outputs.includes("overlay");
      const { outcomes } = this;
      const keep = outcomes !== undefined && !chosenOtherwise(served.run, chosenOf(options));
      const task = { bytes: image, name, kind, display, content: keep };
      // A body that the routes read is nobody else's.
      const given = held ? new Set([image]) : undefined;
      const prepared = await this.#timed("prepare", () =>
        this.#pool.run("prepare", task, { bytes: cost.prepare, signal, ...(given && { given }) }),
      );
      const wanted = MAP_NAMES.filter((map) => outputs.includes(map));
      const queued = { ...options, signal, place: (place ?? own) as Place };
      const { placement, volume } = prepared;
      // In the run's own way it is as tuned and certified: at the network's voxels.
      const other = byTiles(options) && !inOwnWay(served.run, tilesOf(options));
      const straight = other && isVolume(placement) ? straightOutput(placement) : undefined;
      const { placement: back = placement, ...output } = straight ?? {};
      const asked = { ...queued, timeout: left() };
      const predicted = await this.#predict(served, prepared.input, wanted, asked, output);
      const prediction = gated(predicted, placement, served.notes);
      const decided = await this.#decide(served, prediction, options);
      const { classNames, ignoreIndex } = served.notes;
      const { value: spatial, views } = await ownBuffersGently(spatialPart(prediction, wanted));
      if (prepared.display) views.add(prepared.display.data);
      const { extent, files, kept } = await this.#timed("finish", () =>
        this.#pool.run(
          "finish",
          {
            prediction: spatial,
            prepared: {
              placement: back,
              ...(prepared.display && { display: prepared.display }),
              ...(volume && { volume }),
            },
            outputs,
            sets: wantsSets(outputs) ? setsFor(served, options) : undefined,
            arrays,
            classNames,
            ignoreIndex,
            maxBytes: this.memory.answers.bytes / 2,
            keep,
          },
          { bytes: cost.finish, ends: true, signal, given: views },
        ),
      );
      signal.throwIfAborted();
      const lies = placeRecord(placement, extent.areas, served.notes);
      held?.resize(held.bytes + sizeOfFiles(files));
      this.metrics.quality(served.name, prediction, decided.decision);
      const id = kept && outcomes?.keep(served, saidOf(served, prediction, prepared.content), kept);
      return {
        name,
        ...(id !== undefined && { id }),
        ...decided,
        record: { ...predictionRecord(prediction, extent, classNames), ...(lies && { place: lies }) },
        files,
      };
    } finally {
      for (const giveBack of returns) giveBack();
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
    { signal, held }: Pick<RequestOptions, "signal" | "held"> = {},
  ): Promise<WrittenAnswer> {
    const task = { type, model: name, version, images };
    const bytes = images.reduce((sum, { files }) => sum + sizeOfFiles(files), 0);
    // What is small is written sooner than it is handed over.
    if (bytes < 2 ** 18) return writeAnswers(task);
    const cost = writingCost(type, bytes);
    this.memory.answers.check(cost, "an answer", "Ask for fewer outputs, or send fewer images.");
    held?.resize(cost);
    const given = held
      ? new Set(images.flatMap(({ files }) => Object.values(files).map((file) => file.bytes)))
      : undefined;
    const written = await this.#timed("finish", () =>
      this.#pool.run("writeAnswers", task, { ends: true, ...(signal && { signal }), ...(given && { given }) }),
    );
    held?.resize(written.body.length);
    return written;
  }

  /**
   * Takes the files of a form.
   * @throws ERR_LE_DATA, ERR_LE_TOO_LARGE, `signal.reason`
   */
  readForm(bytes: Uint8Array, contentType: string, signal: AbortSignal): Promise<FormFile[]> {
    const task = { bytes, contentType, maxFiles: this.limits.maxImages };
    return this.#pool.run("readForm", task, { bytes: 3 * bytes.length, signal, given: new Set([bytes]) });
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
      timeout = this.limits.timeout,
      held,
    }: { headerLength?: number; place: Place; signal: AbortSignal; timeout?: number; held?: Held },
  ): Promise<
    InferAnswer & {
      /** The gate's, in the order of the images; null without one. */
      decisions: GateDecision["decision"][];
    }
  > {
    const started = performance.now();
    const { maxImages } = this.limits;
    const kind = this.#kind(served);
    const left = () => Math.max(1, timeout - (performance.now() - started));
    const task = { bytes: body, kind, maxImages, ...(headerLength !== undefined && { headerLength }) };
    const given = new Set([body]);
    const returns: (() => void)[] = [];
    try {
      const json = Math.min(headerLength ?? body.length, body.length);
      const parsing = PARSING.json * json + PARSING.binary * (body.length - json);
      this.#checkWork(parsing);
      returns.push(this.#pool.book(parsing, left()));
      const { id, outputs, images, choices } = await this.#timed("prepare", () =>
        this.#pool.run("parseInfer", task, { bytes: parsing, signal, given }),
      );
      const [first] = images;
      const pixels = product(first?.placement.original ?? []);
      const answer = inferBytes(outputs, images.length, pixels, kind.classes);
      this.memory.answers.check(2 * answer, "an answer", "Ask for fewer outputs, or with binary_data.");
      const wanted = MAP_NAMES.filter((map) => outputs.some(({ name }) => name === map));
      const own = this.#kind(served, choices);
      const restoring = images.length * imageCost({ size: [pixels], bytes: 0 }, 0, own, wanted, false).finish;
      this.#checkWork(restoring);
      const inputs = images.reduce((sum, { input }) => sum + input.data.byteLength, 0);
      const spatial = (inputs / kind.preprocessing.channels) * 2 * (kind.classes + Math.max(kind.maps, wanted.length));
      this.memory.images.check(inputs + spatial, "the images of a request", "Send fewer at a time.");
      place.grow(images.length - 1);
      const room = await this.memory.images.wait(inputs + spatial, signal);
      returns.push(() => room.release());
      const queued = { place, signal };
      const results = await Promise.all(
        images.map(async ({ input, placement }) => {
          const asked = { ...choices, ...queued, timeout: left() };
          const prediction = gated(await this.#predict(served, input, wanted, asked), placement, served.notes);
          const { decision, certificate } = await this.#decide(served, prediction, choices);
          this.metrics.quality(served.name, prediction, decision);
          return {
            prediction: spatialPart(prediction, wanted),
            placement,
            scores: Object.fromEntries(IMAGE_SCORE_NAMES.map((score) => [snake(score), scoreOf(prediction, score)])),
            empty: prediction.empty,
            decision: decision ?? "",
            ...(certificate && { certificate: certificate.state }),
          };
        }),
      );
      held?.resize(2 * answer);
      const { value: moved, views } = await ownBuffersGently(results);
      const written = await this.#timed("finish", () =>
        this.#pool.run(
          "writeInfer",
          {
            model: served.name,
            version: String(served.version),
            ...(id !== undefined && { id }),
            outputs,
            results: moved,
          },
          { bytes: restoring, ends: true, signal, given: views },
        ),
      );
      signal.throwIfAborted();
      held?.resize(written.bytes.length);
      return { ...written, decisions: results.map(({ decision }) => (decision || null) as GateDecision["decision"]) };
    } finally {
      for (const giveBack of returns) giveBack();
    }
  }

  /** Seconds, at least 1, after which there should be room for more. */
  retryAfter({ queue }: Pick<ServedModel, "queue">): number {
    return Math.max(queue.retryAfter, Math.ceil(this.#pool.backlog));
  }

  /**
   * Loads a run's folder again, in a process of its own first, and serves it from then on. Requests that the former state accepted are answered by it; where the
   * new one cannot be loaded, the former stays.
   * @throws ERR_LE_OPTION, ERR_LE_CHECKPOINT, ERR_LE_DISPOSED
   */
  reload(name?: string): Promise<void> {
    const { name: known } = this.model(name);
    // One that has not begun will see what this one would.
    const waiting = this.#waitingReloads.get(known);
    if (waiting) return waiting;
    const before = this.#reloads.get(known) ?? Promise.resolve();
    const reload = before
      .catch(() => {})
      .then(async () => {
        this.#waitingReloads.delete(known);
        if (this.closing)
          throw new LayerEnsemblesError(
            "ERR_LE_DISPOSED",
            "Expected a service in use but received one that is closed.",
          );
        const former = this.model(known);
        await tryRun({ folder: former.folder, device: this.#device }, this.#closing.signal);
        const loaded = await this.#load(known, former.folder, former.version + 1);
        this.#models.set(known, loaded);
        const retired = former.close().finally(() => this.#retired.delete(retired));
        this.#retired.add(retired);
      });
    this.#reloads.set(known, reload);
    this.#waitingReloads.set(known, reload);
    return reload;
  }

  /** Accepts nothing more, finishes what was accepted, and frees the models. */
  close(): Promise<void> {
    this.#closed ??= (async () => {
      this.#closing.abort(new LayerEnsemblesError("ERR_LE_DISPOSED", "The server is stopping."));
      await Promise.allSettled(this.#reloads.values());
      await Promise.all([...this.#models.values()].map((model) => model.close()));
      await Promise.all(this.#retired);
      await this.#certificates.close();
      await this.#pool.close();
    })();
    return this.#closed;
  }

  /** @throws ERR_LE_OPTION for tiles of a run whose images did not keep their scale */
  #kind(served: ServedModel, choices: TileChoices = {}): ImageKind {
    const { notes, spatialAxes } = served;
    const { maxPixels, maxSide } = this.limits;
    // The mean entropy is a metric; the gate may look at another map.
    const maps = new Set(["entropy", ...gatedMaps(served)]).size;
    const { classNames } = notes;
    const preprocessing = byTiles(choices) ? atOwnSize(notes.preprocessing) : notes.preprocessing;
    return { preprocessing, spatialAxes, classes: classNames.length, maps, maxPixels, maxSide };
  }

  /** What an image takes. @throws ERR_LE_TOO_LARGE for more than there ever is */
  #cost(size: ImageSize, encoded: number, kind: ImageKind, outputs: readonly OutputName[], arrays: boolean) {
    checkSize(size.size, kind);
    const cost = imageCost(size, encoded, kind, outputs, arrays);
    this.#checkWork(Math.max(cost.prepare, cost.finish));
    this.memory.images.check(cost.held, "an image", "Send a smaller one.");
    if (arrays) {
      const files = outputBytes(product(size.size), kind.classes, outputs);
      this.memory.answers.check(2 * files, "an answer", "Ask for fewer outputs.");
    }
    return cost;
  }

  /** @throws ERR_LE_TOO_LARGE for a task that takes more than all may take together */
  #checkWork(bytes: number): void {
    this.#work.check(bytes, "the work on a request", "Send a smaller image, or ask for fewer outputs.");
  }

  #decide(
    { certificate, gate }: ServedModel,
    prediction: Gated<Prediction>,
    choices: RequestOptions,
  ): Promise<Decided> {
    return certificate.decide(prediction, gate, chosenOf(choices));
  }

  #predict(
    served: ServedModel,
    input: Parameters<ServedModel["queue"]["predict"]>[0],
    wanted: readonly MapName[],
    { skip, fusion, signal, timeout, place, ...choices }: RequestOptions & { place: Place; timeout: number },
    output: Partial<Pick<PredictOptions, "outputSize" | "outputOrder">> = {},
  ): Promise<Prediction> {
    checkPasses(choices, input.shape, served.run, this.limits.maxPasses);
    const gated = gatedMaps(served);
    const maps = MAP_NAMES.filter((map) => map === "entropy" || gated.includes(map) || wanted.includes(map));
    return served.queue.predict(input, {
      ...(skip !== undefined && { skip }),
      ...(fusion !== undefined && { fusion }),
      ...tilesOf(choices),
      ...output,
      maps,
      ...(signal && { signal }),
      timeout,
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

/** What a certificate may not be of. */
function chosenOf({ skip, fusion, ...choices }: RequestOptions): ChosenSettings {
  return { skip, fusion, ...tilesOf(choices) };
}

/** Bytes that reading an infer request takes, for each of its own. */
const PARSING = { json: 24, binary: 12 };

/** @throws ERR_LE_OPTION where inner or outer masks are asked for, and there are no thresholds */
function checkSets({ certificate }: ServedModel, outputs: readonly OutputName[], { sets }: RequestOptions): void {
  if (wantsSets(outputs) && !sets && !certificate.hasSets)
    throw new LayerEnsemblesError(
      "ERR_LE_OPTION",
      `Expected ${SETS.expected} for option 'sets' of predict, which the outputs ${SET_NAMES.join(" and ")} need where the run's certificate has no thresholds, but received nothing.`,
    );
}

/** Thresholds of inner and outer masks by class: as asked for, else as certified; undefined where these are not in force. */
function setsFor(
  { run, certificate }: ServedModel,
  { sets, ...choices }: RequestOptions,
): Record<number, SetThresholds> | undefined {
  if (sets) return checkThresholds(thresholdsOf(sets), run.ensemble.classes);
  return certificate.setsFor(chosenOf(choices));
}

/** What an outcome tells of the prediction: as the run's own gate takes it, which `certify` is of, whatever the service's asks. */
function saidOf(
  { certificate, score: own, run: { gate }, predictor = "" }: ServedModel,
  prediction: Gated<Prediction>,
  content?: string,
) {
  const name = certificate.score ?? own;
  const value = confidenceOf(prediction, name);
  const { [name]: _, ...watched } = watchedOf(prediction, name, gate);
  return {
    predictor,
    score: { name, value: Number.isFinite(value) ? value : null },
    acceptable: acceptability(prediction, name, gate) > Number.NEGATIVE_INFINITY,
    ...(Object.keys(watched).length > 0 && { watched }),
    ...(content !== undefined && { content }),
  };
}

/** The maps whose summaries decide. */
function gatedMaps({ score, certificate }: ServedModel): MapName[] {
  const scores = [score, ...certificate.scores];
  return scores.flatMap((score) => SCORES[score].map ?? []);
}

function sizeOfFiles(files: Readonly<Record<string, OutputFile>>): number {
  return Object.values(files).reduce((sum, { bytes }) => sum + bytes.length, 0);
}

function defaultMemory(): number {
  // Of a container, where it is bounded.
  const constrained = process.constrainedMemory?.() ?? 0;
  const total = constrained > 0 ? Math.min(constrained, os.totalmem()) : os.totalmem();
  return Math.floor(Math.min(4 * 2 ** 30, Math.max(2 ** 30, total / 4)));
}

/** Bytes of a thread's heap of objects: a body of JSON numbers is read into ten times its size at most. */
function heapOf({ maxBody }: Pick<Limits, "maxBody">): number {
  return 2 ** 27 + 10 * maxBody;
}

/** A signal that is set after so many milliseconds, or by another. */
function deadline(timeout: number, signal: AbortSignal | undefined): { signal: AbortSignal; clear(): void } {
  const abort = new AbortController();
  const forward = () => abort.abort(signal?.reason);
  const timer = setTimeout(() => abort.abort(timeoutError(timeout)), Math.min(timeout, 2 ** 31 - 1));
  if (signal?.aborted) forward();
  else signal?.addEventListener("abort", forward, { once: true });
  const clear = () => {
    clearTimeout(timer);
    signal?.removeEventListener("abort", forward);
  };
  return { signal: abort.signal, clear };
}

/** An answer that is not there in time. */
export function timeoutError(timeout: number): LayerEnsemblesError {
  return new LayerEnsemblesError(
    "ERR_LE_TIMEOUT",
    `Expected to answer within ${Math.round(timeout)} ms but received no result in time.`,
  );
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
