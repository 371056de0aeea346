import { availableParallelism } from "node:os";
import type { Piscina } from "piscina";
import { type ErrorCode, LayerEnsemblesError } from "../errors.js";
import { writeAnswers } from "./answers.js";
import { readForm } from "./form.js";
import * as imageWork from "./image-work.js";
import * as kserve from "./kserve.js";
import { judgeMask } from "./outcome-work.js";
import { buffersOf, ownBuffers } from "./transfer.js";

/** What threads do. */
export const WORK = {
  /** Nothing: tells that a thread has started. */
  ready: () => {},
  measure: imageWork.measure,
  prepare: imageWork.prepare,
  finish: imageWork.finish,
  parseInfer: kserve.parseInfer,
  writeInfer: kserve.writeInfer,
  readForm,
  writeAnswers,
  judgeMask,
};

type Work = typeof WORK;

/** A task for a thread. */
export interface Task {
  /** Which of {@link WORK}. */
  name: keyof Work;
  /** What it is done to. */
  task?: unknown;
}

/** Tasks that take more are large: few run at a time, and small ones do not wait for them. */
export const LARGE = 32 * 2 ** 20;

/** How a task is run. */
export interface TaskOptions {
  /** Bytes that it takes at most while it runs, beside what it is given. @default 0 */
  bytes?: number;
  /** Whether it ends what was begun, and so goes before what begins. @default false */
  ends?: boolean;
  /** Takes it out of the queue; ends it where it runs. */
  signal?: AbortSignal;
  /** Arrays that are handed over, not copied. */
  given?: ReadonlySet<unknown>;
}

/** How many threads there are and what each may take. */
export interface PoolOptions {
  /** Small tasks that run at a time; 0 works on the calling thread. @default half of the cores, at least one and at most four */
  workers?: number;
  /** Bytes that large tasks may take together. @default unbounded */
  bytes?: number;
  /** MiB of each thread's heap of objects; arrays of numbers are not in it. @default 512 */
  heap?: number;
}

interface Waiting {
  bytes: number;
  run(): Promise<void>;
}

/** Milliseconds that a running task has to end once nobody waits for it; then its thread is ended. */
const GRACE = 1000;

/** Threads that decode, prepare, restore and encode images, so that the event loop stays free. */
export class ImagePool {
  readonly #threads: Piscina | undefined;
  readonly #slots: { small: number; large: number; threads: number };
  readonly #bytes: number;
  /** What ends goes before what begins; each in order of arrival. */
  readonly #waiting = { small: { ends: [], begins: [] }, large: { ends: [], begins: [] } } as Record<
    "small" | "large",
    Record<"ends" | "begins", Waiting[]>
  >;
  readonly #running = { small: 0, large: 0 };
  #held = 0;
  /** Bytes of large tasks that were booked and are not done. */
  #booked = 0;
  /** Of large tasks, a moving average. */
  #secondsPerByte = 0;
  #idle: { promise: Promise<void>; resolve(): void } | undefined;

  private constructor(threads: Piscina | undefined, workers: number, bytes: number) {
    this.#threads = threads;
    this.#slots = { small: workers, large: Math.max(1, workers - 1), threads: threadsOf(workers) };
    this.#bytes = bytes;
  }

  /** @throws ERR_LE_INTERNAL where a thread cannot start, as in a damaged installation */
  static async create({
    workers = defaultWorkers(),
    bytes = Infinity,
    heap = 512,
  }: PoolOptions = {}): Promise<ImagePool> {
    if (workers === 0) return new ImagePool(undefined, 0, bytes);
    const { Piscina } = await import("piscina");
    const filename = new URL("./image-worker.js", import.meta.url).href;
    const threads = new Piscina({
      filename,
      minThreads: workers,
      maxThreads: threadsOf(workers),
      idleTimeout: 60_000,
      concurrentTasksPerWorker: 1,
      recordTiming: false,
      resourceLimits: { maxOldGenerationSizeMb: heap },
    });
    // A thread that fails outside of a task is told of by an event, which ends the process where nobody listens.
    const failed = new Promise<never>((_, reject) => threads.on("error", reject));
    failed.catch(() => {});
    try {
      await Promise.race([threads.run({ name: "ready" } satisfies Task), failed]);
    } catch (cause) {
      await threads.destroy();
      const received = cause instanceof Error ? cause.message : String(cause);
      throw new LayerEnsemblesError(
        "ERR_LE_INTERNAL",
        `Expected threads for images to start but received: ${received}. Install the package again.`,
        { cause },
      );
    }
    return new ImagePool(threads, workers, bytes);
  }

  /** Seconds until the large tasks that were booked are done, as measured so far. */
  get backlog(): number {
    return (this.#booked * this.#secondsPerByte) / this.#slots.large;
  }

  /**
   * Tells of a large piece of work before any of it is run.
   * @param bytes What its tasks take, in sum.
   * @param timeout Milliseconds that it may take.
   * @returns a function that is called when it is done, or given up
   * @throws ERR_LE_BUSY where it would not be done in time
   */
  book(bytes: number, timeout: number): () => void {
    if (bytes <= LARGE || !this.#threads) return () => {};
    const seconds = ((this.#booked + bytes) * this.#secondsPerByte) / this.#slots.large;
    if (this.#booked > 0 && seconds * 1000 > timeout)
      throw new LayerEnsemblesError(
        "ERR_LE_BUSY",
        `Expected large images of at most ${Math.round(timeout / 1000)} s of work at a time but received one more. Try again in ${Math.ceil(this.backlog)} s.`,
      );
    this.#booked += bytes;
    return () => {
      this.#booked -= bytes;
      bytes = 0;
    };
  }

  /**
   * Runs one of {@link WORK}.
   * @throws what it throws, `signal.reason`; ERR_LE_TOO_LARGE where its memory does not suffice
   */
  async run<Name extends keyof Work>(
    name: Name,
    task: Parameters<Work[Name]>[0],
    { bytes = 0, ends = false, signal, given }: TaskOptions = {},
  ): Promise<Awaited<ReturnType<Work[Name]>>> {
    signal?.throwIfAborted();
    const threads = this.#threads;
    if (!threads) return (await WORK[name](task as never)) as Awaited<ReturnType<Work[Name]>>;
    const lane = bytes > LARGE ? "large" : "small";
    const answer = await new Promise<unknown>((resolve, reject) => {
      const queue = this.#waiting[lane][ends ? "ends" : "begins"];
      const kill = new AbortController();
      let grace: NodeJS.Timeout | undefined;
      const leave = () => {
        const at = queue.indexOf(waiting);
        if (at >= 0) queue.splice(at, 1);
        else grace = setTimeout(() => kill.abort(), GRACE);
        reject(signal?.reason);
        this.#settle();
      };
      const waiting: Waiting = {
        bytes,
        run: async () => {
          const started = performance.now();
          try {
            const own = ownBuffers({ name, task } satisfies Task, given);
            resolve(await threads.run(own, { transferList: buffersOf(own), signal: kill.signal }));
            if (lane === "large") this.#measure(bytes, (performance.now() - started) / 1000);
          } catch (error) {
            reject(memoryError(error) ?? error);
          } finally {
            clearTimeout(grace);
            signal?.removeEventListener("abort", leave);
          }
        },
      };
      signal?.addEventListener("abort", leave, { once: true });
      queue.push(waiting);
      this.#next();
    });
    const { error, value } = answer as {
      error?: { code: ErrorCode; message: string };
      value: Awaited<ReturnType<Work[Name]>>;
    };
    if (error) throw new LayerEnsemblesError(error.code, error.message);
    return value;
  }

  /** Ends the threads once they have nothing left to do. */
  async close(): Promise<void> {
    let resolve = () => {};
    const promise = new Promise<void>((done) => {
      resolve = done;
    });
    this.#idle ??= { promise, resolve };
    this.#settle();
    await this.#idle.promise;
    await this.#threads?.destroy();
  }

  #next(): void {
    for (const lane of ["small", "large"] as const)
      for (;;) {
        const { ends, begins } = this.#waiting[lane];
        const queue = ends.length > 0 ? ends : begins;
        const [first] = queue;
        if (!first || this.#running[lane] >= this.#limit(lane)) break;
        if (lane === "large" && this.#held > 0 && this.#held + first.bytes > this.#bytes) break;
        queue.shift();
        this.#running[lane]++;
        if (lane === "large") this.#held += first.bytes;
        void first.run().then(() => {
          this.#running[lane]--;
          if (lane === "large") this.#held -= first.bytes;
          this.#next();
          this.#settle();
        });
      }
  }

  /** How many may run now: neither kind keeps the other from every thread. */
  #limit(lane: "small" | "large"): number {
    const { small, large, threads } = this.#slots;
    const { ends, begins } = this.#waiting.large;
    if (lane === "large") return Math.min(large, threads - this.#running.small);
    return Math.min(small, threads - Math.max(this.#running.large, ends.length + begins.length > 0 ? 1 : 0));
  }

  #measure(bytes: number, seconds: number): void {
    const each = seconds / bytes;
    this.#secondsPerByte = this.#secondsPerByte === 0 ? each : 0.7 * this.#secondsPerByte + 0.3 * each;
  }

  #settle(): void {
    const waits = Object.values(this.#waiting).some(({ ends, begins }) => ends.length + begins.length > 0);
    if (!waits && this.#running.small + this.#running.large === 0) this.#idle?.resolve();
  }
}

/** Half of the cores, at least one and at most four. */
export function defaultWorkers(): number {
  return Math.min(4, Math.max(1, availableParallelism() >> 1));
}

/** A small task runs beside a large one even where there is one worker. */
export function threadsOf(workers: number): number {
  return workers === 0 ? 0 : Math.max(2, workers);
}

/** What ends a thread whose heap is full. */
function memoryError(error: unknown): LayerEnsemblesError | undefined {
  if ((error as NodeJS.ErrnoException).code !== "ERR_WORKER_OUT_OF_MEMORY") return undefined;
  return new LayerEnsemblesError(
    "ERR_LE_TOO_LARGE",
    "Expected a request that a thread's memory suffices for but received one that takes more. Send less at a time.",
    { cause: error },
  );
}
