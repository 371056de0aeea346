import path from "node:path";
import { HistoryFile } from "../runs/history.js";
import { RUN_FILES } from "../runs/run.js";
import { TensorBoardWriter } from "../runs/tensorboard.js";
import type { EpochEvent } from "./training.js";

/** Writes a run's history.csv and TensorBoard events, one epoch after another. */
export class Recorder {
  readonly #folder: string;
  readonly #failed: (error: unknown) => void;
  #files: Promise<{ history: HistoryFile; events: TensorBoardWriter }> | undefined;
  #last: Promise<void> = Promise.resolve();

  /** @param failed is told of the first file that cannot be written */
  constructor(folder: string, failed: (error: unknown) => void) {
    this.#folder = folder;
    this.#failed = failed;
  }

  /**
   * Begins, or goes on after the epochs that the checkpoint knows of. These are written anew: a killed process may have
   * left fewer or more rows than its checkpoint has epochs.
   */
  start(before: readonly EpochEvent[]): void {
    this.#files = (async () => {
      const history = new HistoryFile(path.join(this.#folder, RUN_FILES.history));
      // From the start too: a training that was killed before its first checkpoint left events of epochs that come again.
      return { history, events: await TensorBoardWriter.open(this.#folder, { fromStep: before.length }) };
    })();
    this.#then(async () => {
      const { history } = (await this.#files) ?? {};
      for (const event of before) await history?.append({ ...scalars(event), seconds: event.seconds });
    });
  }

  epoch(event: EpochEvent): void {
    this.#then(async () => {
      const { history, events } = (await this.#files) ?? {};
      const { epoch, ...values } = scalars(event);
      await history?.append({ epoch: event.epoch, ...values, seconds: event.seconds });
      await events?.scalars(values, event.epoch);
    });
  }

  /** Waits for what is to be written, and closes the files. */
  async close(): Promise<void> {
    await this.#last;
    await this.#files?.then(({ events }) => events.close()).catch(() => {});
  }

  #then(work: () => Promise<void>): void {
    this.#last = this.#last.then(work).catch((error) => this.#failed(error));
  }
}

/** One epoch's numbers by TensorBoard's tag and by history.csv's column. */
function scalars(event: EpochEvent): Record<string, number> & { epoch: number } {
  const row: Record<string, number> & { epoch: number } = {
    epoch: event.epoch,
    "loss/train": event.loss,
    learningRate: event.learningRate,
    imagesPerSecond: event.imagesPerSecond,
  };
  for (const [head, loss] of Object.entries(event.losses)) row[`loss-per-head/${head}`] = loss;
  if (event.validation) {
    const { loss, fused, heads } = event.validation;
    row["loss/validation"] = loss;
    row["dice/fused"] = fused.dice;
    row["nll/fused"] = fused.nll;
    for (const [head, score] of Object.entries(heads)) {
      row[`dice-per-head/${head}`] = score.dice;
      row[`nll-per-head/${head}`] = score.nll;
    }
  }
  return row;
}
