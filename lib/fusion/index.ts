export type { FloatArray } from "../checks.js";
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
export type { Heads } from "./heads.js";
export { type Staple, type StapleOptions, staple } from "./staple.js";
