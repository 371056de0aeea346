import type { NdArray } from "../arrays.js";
import type { Model, PredictOptions } from "../ensemble/model.js";
import type { Prediction } from "../ensemble/prediction.js";
import { LayerEnsemblesError } from "../errors.js";
import { checkOptions, type Defaults, defaultsOf, option, type Values } from "../options.js";

/** Anything that predicts a list of images: a `LayerEnsemble`, or another method. */
export interface Predictor {
  /** By which tiles it predicts unless a call says otherwise; without any, each image in one pass. */
  readonly tiles?: Model["tiles"];
  /** Predicts images of one shape, C×H×W or C×D×H×W, each as if it were alone; the results are in their order. */
  predict(images: readonly NdArray[], options?: PredictOptions): Promise<Prediction[]>;
}

export const QUEUE = {
  /** Images of one shape that share a pass. @default 8 */
  maxBatch: option.integer({ min: 1, max: 1024, default: 8, text: "images of one input size that share a pass" }),
  /** Pixels (voxels) of the images that share a pass, so that large ones go one by one. @default unbounded */
  maxBatchPixels: option.custom<number>("at least 1", (value) => typeof value === "number" && value >= 1),
  /** Milliseconds that an image waits, at most, for others to share its pass while the model is idle. @default 4 */
  maxDelay: option.number({
    ...{ min: 0, max: 60_000, default: 4, arg: "ms" },
    text: "longest wait of an image for others, while the model is idle",
  }),
  /** Images that are accepted and not yet done; one more is refused. @default 64 */
  maxQueue: option.integer({
    ...{ min: 1, default: 64 },
    text: "images of one run that are accepted and not yet answered; one more is refused (503)",
  }),
  /** Milliseconds for an image from acceptance to result, unless a call says otherwise. @default 30000 */
  timeout: option.integer({
    ...{ min: 1, max: 86_400_000, default: 30_000, arg: "s", unit: 1000 },
    text: "longest time from a request's head to its answer",
  }),
  /** Called after each pass, for metrics. */
  onBatch: option.callback<(batch: BatchEvent) => void>(),
};

/** How a {@link PredictionQueue} works. */
export interface QueueOptions extends Values<typeof QUEUE> {}

/** One pass of the model. */
export interface BatchEvent {
  /** Images in it. */
  size: number;
  /** Seconds that the model took. */
  seconds: number;
  /** Seconds that each image waited before. */
  waited: number[];
}

/** How one image is predicted: the model's own options, and how long its caller waits. */
export interface QueuedOptions extends Omit<PredictOptions, "batchSize"> {
  /** Milliseconds, from now. @default the queue's */
  timeout?: number;
  /** A place that was reserved before. @default one of its own */
  place?: Place;
}

/** Room in a queue for some images, from before they are read until their answer is written. */
export interface Place {
  /** Takes room for more images. @throws ERR_LE_BUSY */
  grow(count: number): void;
  /** Gives the room back; again is harmless. */
  release(): void;
}

interface Job {
  image: NdArray;
  options: PredictOptions;
  arrived: number;
  deadline: number;
  /** When it is run even if its batch is not full. */
  due: number;
  settled: boolean;
  settle(result: Prediction | { error: unknown }): void;
}

/** Whether an image is predicted by tiles: by the model's own where none are chosen. */
function tiled({ tiles }: Predictor, job: Job | undefined): boolean {
  const { tile = tiles?.size ?? "none", mirror = [] } = job?.options ?? {};
  return tile !== "none" || mirror.length > 0;
}

interface Batch {
  jobs: Job[];
  abort: AbortController;
}

/**
 * Gathers single images, as requests bring them, into batches of one shape for a model that works on one job at a time. It
 * refuses what it has no room for, drops what nobody waits for any more, and serves the shape whose image must be done first.
 * It knows nothing of HTTP: use it from any framework.
 *
 * ```ts
 * const queue = new PredictionQueue(model, { maxBatch: 8, maxQueue: 32, timeout: 5000 });
 * const result = await queue.predict(image, { signal: request.signal });
 * ```
 */
export class PredictionQueue {
  readonly #model: Predictor;
  readonly #options: Defaults<typeof QUEUE> & Pick<QueueOptions, "onBatch"> & { maxBatchPixels: number };
  /** Waiting jobs by what they must share to run together, each in order of arrival. */
  readonly #waiting = new Map<string, Job[]>();
  #running: Batch | undefined;
  #accepted = 0;
  #timer: NodeJS.Timeout | undefined;
  /** Seconds of an image, a moving average. */
  #secondsPerImage = 0;
  #closed: { promise: Promise<void>; resolve(): void } | undefined;

  /** @throws ERR_LE_OPTION */
  constructor(model: Predictor, options: QueueOptions = {}) {
    const given = checkOptions("PredictionQueue", options, QUEUE);
    this.#model = model;
    this.#options = { maxBatchPixels: Number.POSITIVE_INFINITY, ...defaultsOf(QUEUE), ...given };
  }

  /** Images that are accepted and not yet done. */
  get accepted(): number {
    return this.#accepted;
  }

  /** Images that wait for the model. */
  get waiting(): number {
    let count = 0;
    for (const jobs of this.#waiting.values()) count += jobs.length;
    return count;
  }

  /** Seconds, at least 1, after which there should be room, as measured so far: for the header Retry-After. */
  get retryAfter(): number {
    return Math.max(1, Math.ceil(this.#accepted * this.#secondsPerImage));
  }

  /**
   * Takes room before an image is read or decoded, so that work is refused before it costs anything.
   * @throws ERR_LE_BUSY where there is no room, ERR_LE_DISPOSED once the queue is closing
   */
  reserve(count = 1): Place {
    let held = 0;
    const grow = (more: number) => {
      if (this.#accepted + more > this.#options.maxQueue)
        throw new LayerEnsemblesError(
          "ERR_LE_BUSY",
          `Expected at most ${this.#options.maxQueue} images at a time but received ${more} more. Try again in ${this.retryAfter} s.`,
        );
      this.#accepted += more;
      held += more;
    };
    if (this.#closed)
      throw new LayerEnsemblesError("ERR_LE_DISPOSED", "Expected a queue in use but received one that is closed.");
    grow(count);
    const release = () => {
      this.#accepted -= held;
      held = 0;
      if (this.#accepted === 0) this.#closed?.resolve();
    };
    return { grow, release };
  }

  /**
   * Predicts one image, together with others of its shape and options that wait.
   * @param image C×H×W (C×D×H×W for a volume), as the model's `predict` takes it
   * @throws ERR_LE_BUSY, ERR_LE_DISPOSED, ERR_LE_TIMEOUT, `signal.reason`, and what the model throws
   */
  async predict(image: NdArray, options: QueuedOptions = {}): Promise<Prediction> {
    const { timeout = this.#options.timeout, place, signal, ...rest } = options;
    signal?.throwIfAborted();
    const own = place ? undefined : this.reserve();
    try {
      return await this.#enqueue(image, rest, timeout, signal);
    } finally {
      own?.release();
    }
  }

  /** Takes nothing more, and waits until all that was accepted is done. The model is the caller's to dispose of. */
  close(): Promise<void> {
    if (!this.#closed) {
      let resolve = () => {};
      const promise = new Promise<void>((done) => {
        resolve = done;
      });
      this.#closed = { promise, resolve };
      if (this.#accepted === 0) resolve();
    }
    this.#next(); // nothing waits for company any more
    return this.#closed.promise;
  }

  #enqueue(image: NdArray, options: PredictOptions, timeout: number, signal?: AbortSignal): Promise<Prediction> {
    const key = JSON.stringify([image.shape, options]);
    const arrived = performance.now();
    return new Promise((resolve, reject) => {
      const cancel = (error: unknown) => {
        job.settle({ error });
        this.#forget(key, job);
      };
      const onAbort = () => cancel(signal?.reason);
      const timer = setTimeout(
        () =>
          cancel(
            new LayerEnsemblesError(
              "ERR_LE_TIMEOUT",
              `Expected a prediction within ${Math.round(timeout)} ms but received none.`,
            ),
          ),
        timeout,
      );
      const deadline = arrived + timeout;
      const job: Job = {
        image,
        options,
        arrived,
        deadline,
        due: Math.min(arrived + this.#options.maxDelay, deadline),
        settled: false,
        settle: (result) => {
          if (job.settled) return;
          job.settled = true;
          clearTimeout(timer);
          signal?.removeEventListener("abort", onAbort);
          if ("error" in result) reject(result.error);
          else resolve(result);
        },
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      const jobs = this.#waiting.get(key);
      if (jobs) jobs.push(job);
      else this.#waiting.set(key, [job]);
      this.#next();
    });
  }

  /** Takes a job that nobody waits for out of the queue; a pass that nobody at all waits for is stopped. */
  #forget(key: string, job: Job): void {
    const jobs = this.#waiting.get(key);
    const at = jobs?.indexOf(job) ?? -1;
    if (jobs && at >= 0) {
      jobs.splice(at, 1);
      if (jobs.length === 0) this.#waiting.delete(key);
    } else if (this.#running?.jobs.every(({ settled }) => settled)) {
      this.#running.abort.abort();
    }
  }

  /** Starts the next batch if the model is free and one is ready, else sets the alarm for when one will be. */
  #next(): void {
    clearTimeout(this.#timer);
    if (this.#running) return;
    const now = performance.now();
    let ready: { key: string; jobs: Job[]; deadline: number } | undefined;
    let due = Infinity;
    for (const [key, jobs] of this.#waiting) {
      const oldest = jobs[0] as Job;
      if (jobs.length >= this.#batchOf(oldest) || oldest.due <= now || this.#closed) {
        const deadline = Math.min(...jobs.map((job) => job.deadline));
        if (!ready || deadline < ready.deadline) ready = { key, jobs, deadline };
      } else due = Math.min(due, oldest.due);
    }
    if (ready) {
      const batch = ready.jobs.splice(0, this.#batchOf(ready.jobs[0] as Job));
      if (ready.jobs.length === 0) this.#waiting.delete(ready.key);
      void this.#run(batch);
    } else if (due < Infinity) this.#timer = setTimeout(() => this.#next(), Math.max(0, due - now));
  }

  /** How many images like this one share a pass. */
  #batchOf(job: Job): number {
    if (tiled(this.#model, job)) return 1;
    const { shape } = job.image;
    const pixels = shape.slice(1).reduce((product, side) => product * side, 1);
    const { maxBatch, maxBatchPixels } = this.#options;
    return Math.max(1, Math.min(maxBatch, Math.floor(maxBatchPixels / pixels)));
  }

  async #run(jobs: Job[]): Promise<void> {
    const started = performance.now();
    const abort = new AbortController();
    this.#running = { jobs, abort };
    const predict = (some: readonly Job[]) =>
      this.#model.predict(
        some.map(({ image }) => image),
        // By tiles an image goes alone, a tile at a time.
        {
          ...(!tiled(this.#model, some[0]) && { batchSize: this.#options.maxBatch }),
          ...some[0]?.options,
          signal: abort.signal,
        },
      );
    try {
      const results = await predict(jobs);
      for (const [i, job] of jobs.entries()) job.settle(results[i] as Prediction);
      this.#measure(jobs, started);
    } catch (error) {
      if (jobs.length === 1) jobs[0]?.settle({ error });
      // One bad image must not take the others down.
      else
        for (const job of jobs) {
          if (job.settled) continue;
          try {
            const [result] = await predict([job]);
            job.settle(result as Prediction);
          } catch (own) {
            job.settle({ error: own });
          }
        }
    } finally {
      this.#running = undefined;
      this.#next();
    }
  }

  #measure(jobs: readonly Job[], started: number): void {
    const seconds = (performance.now() - started) / 1000;
    const each = seconds / jobs.length;
    this.#secondsPerImage = this.#secondsPerImage === 0 ? each : 0.9 * this.#secondsPerImage + 0.1 * each;
    const waited = jobs.map(({ arrived }) => (started - arrived) / 1000);
    this.#options.onBatch?.({ size: jobs.length, seconds, waited });
  }
}
