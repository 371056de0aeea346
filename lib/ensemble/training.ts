import type { NdArray } from "../arrays.js";
import type { KernelReport } from "../native/kernels.js";

/** What training needs of a sample: an image of C×H×W (C×D×H×W), normalised, and its mask of H×W (D×H×W) class indices. */
export interface TrainingSample {
  /** C×H×W, or C×D×H×W for a volume; finite numbers, normalised. */
  readonly image: NdArray<Float32Array>;
  /** H×W or D×H×W class indices, or the ignored label. Training needs one. */
  readonly mask?: NdArray<Uint8Array> | undefined;
}

/** Anything that yields samples, all of one size unless they are trained on by patches: an array, a `Dataset`, a generator. */
export type SampleSource = Iterable<TrainingSample> | AsyncIterable<TrainingSample>;

/** Dice (mean over foreground classes and images) and nll (mean over images) on validation. */
export interface Score {
  /** In [0, 1]. */
  dice: number;
  /** Mean over pixels of -ln of the true class's probability, in nats; at least 0. */
  nll: number;
}

/** What was found out before training began. */
export interface PreparedEvent {
  /** The machine is known, and training begins. */
  type: "prepared";
  /** Numbers in which the training runs. */
  precision: "fp32" | "bf16";
  /** Seconds of one batch in each, where `precision: "auto"` chose by them; else null. */
  stepSeconds: {
    /** In float32. */
    fp32: number;
    /** In bfloat16. */
    bf16: number;
  } | null;
  /** What is known of libtorch's kernels; null where none were checked, as on a GPU. */
  kernels: KernelReport | null;
}

/** What happened in training. Epochs and batches count from 0. */
export type TrainingEvent =
  | {
      /** A kernel of libtorch was tried. */
      type: "preparing";
      /** How many were. */
      done: number;
      /** How many there are to try. */
      kernels: number;
    }
  | PreparedEvent
  | {
      /** Training begins. */
      type: "start";
      /** The first epoch to come, from 0; above 0 for a resumed run. */
      epoch: number;
      /** How many there are in all. */
      epochs: number;
      /** The epochs that a resumed run has behind it. */
      before: EpochEvent[];
    }
  | {
      /** Some batches were done. */
      type: "batch";
      /** The epoch, from 0. */
      epoch: number;
      /** How many there are in all. */
      epochs: number;
      /** The last batch that was done, from 0. */
      batch: number;
      /** Batches in an epoch. */
      batches: number;
      /** Σ_k w_k · L_k of the last batch. */
      loss: number;
      /** Each head's loss in the last batch, by its name, unweighted. */
      losses: Record<string, number>;
      /** Of the last step. */
      learningRate: number;
      /** Of training alone. */
      imagesPerSecond: number;
      /** Until the last epoch, by the pace so far. */
      secondsLeft: number;
    }
  | EpochEvent;

/** What one epoch came to. */
export interface EpochEvent {
  /** An epoch ended. */
  type: "epoch";
  /** Which, from 0. */
  epoch: number;
  /** How many there are in all. */
  epochs: number;
  /** Mean of Σ_k w_k · L_k over the epoch, as the optimiser saw it. */
  loss: number;
  /** Mean loss of each head by its name, unweighted. */
  losses: Record<string, number>;
  /** Measured after the epoch; undefined without validation samples. */
  validation?: {
    /** Σ_k w_k · L_k; what the best epoch is chosen by. */
    loss: number;
    /** Each head alone, by its name. */
    heads: Record<
      string,
      Score & {
        /** The head's own loss, unweighted. */
        loss: number;
      }
    >;
    /** All kept heads, fused. */
    fused: Score;
  };
  /** Of the epoch's last step. */
  learningRate: number;
  /** Duration, validation counted. */
  seconds: number;
  /** Of training alone; patches per second, where those are trained on. */
  imagesPerSecond: number;
  /** Until the last epoch, by the pace so far. */
  secondsLeft: number;
  /** The best epoch so far, this one counted; without validation always this one. */
  best: {
    /** From 0. */
    epoch: number;
    /** Its validation loss; without validation its training loss. */
    loss: number;
  };
  /** Whether `best` is this one. */
  improved: boolean;
}

/** What `fit` returns. */
export interface History {
  /** Every epoch, those before a resumed run was interrupted too. */
  epochs: EpochEvent[];
  /** The epoch of the lowest validation loss, without validation the last one; null where none was done. */
  best: {
    /** From 0. */
    epoch: number;
    /** Its validation loss; without validation its training loss. */
    loss: number;
  } | null;
  /** Whether all epochs were done, or early stopping ended it. */
  stopped: "epochs" | "early";
}
