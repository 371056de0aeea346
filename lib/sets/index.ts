export {
  type FitPixelSetsOptions,
  type FittedSet,
  type FittedSets,
  fitPixelSets,
  type PixelSetFit,
} from "./fit.js";
export {
  type PixelSets,
  pixelSets,
  SET_NAMES,
  type SetName,
  type SetThresholds,
  type ThresholdsByClass,
} from "./pixel-sets.js";
export { pixelSetRisk, type SetCurve, type SetRisk } from "./risk.js";
