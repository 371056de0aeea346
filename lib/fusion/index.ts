export {
  argmax,
  FUSIONS,
  type FuseOptions,
  type Fusion,
  fuse,
  labelMaps,
  PREDICTION_FUSIONS,
  type PredictionFusion,
  skipHeads,
  softmax,
  type TrustOptions,
} from "./fuse.js";
export type { FloatArray, Heads } from "./input.js";
export { type Staple, type StapleOptions, staple } from "./staple.js";
