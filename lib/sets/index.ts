export {
  type FitPixelSetsOptions,
  type FittedSet,
  type FittedSets,
  fitPixelSets,
  type PixelSetFit,
} from "./fit.js";
export {
  checkThresholds,
  type PixelSets,
  pixelSets,
  SET_NAMES,
  SETS,
  type SetName,
  type SetThresholds,
  setSizes,
  setsOf,
  type ThresholdsByClass,
  thresholdsOf,
} from "./pixel-sets.js";
export { pixelSetRisk, type SetCurve, type SetRisk } from "./risk.js";
