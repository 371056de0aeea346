/** A loss: each a mean over the batch. See docs/metrics.md. */
export type LossName =
  | "softDice"
  | "crossEntropy"
  | "diceCrossEntropy"
  | "focal"
  | "tversky"
  | "jaccard"
  | "lovaszSoftmax"
  | "boundary";

/** The losses, by name. Those of regression (mse, mae, huber) come with its heads in a later version. */
export const LOSSES: readonly LossName[] = [
  "softDice",
  "crossEntropy",
  "diceCrossEntropy",
  "focal",
  "tversky",
  "jaccard",
  "lovaszSoftmax",
  "boundary",
];
