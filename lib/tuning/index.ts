export { type ChooseSkipOptions, chooseSkip, type SkipCurveOptions, type SkipPoint, skipCurve } from "./skip.js";
export {
  type FittedTemperature,
  fitProbabilityTemperature,
  fitTemperature,
  type TemperatureOptions,
  temper,
} from "./temperature.js";
export { fitHeadWeights, type HeadWeightOptions, type HeadWeights } from "./weights.js";
