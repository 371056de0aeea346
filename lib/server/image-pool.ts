import { availableParallelism } from "node:os";
import type { Piscina } from "piscina";
import { type ErrorCode, LayerEnsemblesError } from "../errors.js";
import { writeAnswers } from "./answers.js";
import * as imageWork from "./image-work.js";
import * as kserve from "./kserve.js";
import { buffersOf, ownBuffers } from "./transfer.js";

const WORK = {
  prepare: imageWork.prepare,
  finish: imageWork.finish,
  parseInfer: kserve.parseInfer,
  writeInfer: kserve.writeInfer,
  writeAnswers,
};

type Work = typeof WORK;

/** Threads that decode, prepare, restore and encode images, so that the event loop stays free. */
export class ImagePool {
  readonly #threads: Piscina | undefined;

  private constructor(threads: Piscina | undefined) {
    this.#threads = threads;
  }

  /**
   * @param workers Threads; 0 works on the calling thread. @default half of the cores, at least one and at most four
   * @throws ERR_LE_INTERNAL where a thread cannot start, as in a damaged installation
   */
  static async create(workers = Math.min(4, Math.max(1, availableParallelism() >> 1))): Promise<ImagePool> {
    if (workers === 0) return new ImagePool(undefined);
    const { Piscina } = await import("piscina");
    const filename = new URL("./image-worker.js", import.meta.url).href;
    const threads = new Piscina({
      filename,
      minThreads: workers,
      maxThreads: workers,
      concurrentTasksPerWorker: 1,
      recordTiming: false,
    });
    // A thread that fails outside of a task is told of by an event, which ends the process where nobody listens.
    const failed = new Promise<never>((_, reject) => threads.on("error", reject));
    try {
      await Promise.race([threads.run(null, { name: "ready" }), failed]);
    } catch (cause) {
      await threads.destroy();
      const received = cause instanceof Error ? cause.message : String(cause);
      throw new LayerEnsemblesError(
        "ERR_LE_INTERNAL",
        `Expected threads for images to start but received: ${received}. Install the package again.`,
        { cause },
      );
    }
    return new ImagePool(threads);
  }

  /** Runs one of the functions above. @throws what it throws */
  async run<Name extends keyof Work>(
    name: Name,
    task: Parameters<Work[Name]>[0],
  ): Promise<Awaited<ReturnType<Work[Name]>>> {
    if (!this.#threads) return (await WORK[name](task as never)) as Awaited<ReturnType<Work[Name]>>;
    const own = ownBuffers(task);
    const answer = await this.#threads.run(own, { name, transferList: buffersOf(own) });
    if ("error" in answer) throw new LayerEnsemblesError(answer.error.code as ErrorCode, answer.error.message);
    return answer.value;
  }

  /** Ends the threads once they have nothing left to do. */
  async close(): Promise<void> {
    await this.#threads?.close();
  }
}
