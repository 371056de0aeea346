export {
  type ChooseScoreOptions,
  type ChosenScore,
  chooseScore,
  type ScoreRanking,
  type ScoreValidation,
} from "./choose-score.js";
export { calibrateInterval, type DiceCase, fitPredictedDice, type PredictedDiceOptions } from "./predicted-dice.js";
export { type ChooseSkipOptions, chooseSkip, type SkipCurveOptions, type SkipPoint, skipCurve } from "./skip.js";
export {
  type FittedTemperature,
  fitProbabilityTemperature,
  fitTemperature,
  type TemperatureOptions,
  temper,
} from "./temperature.js";
export { fitHeadWeights, type HeadWeightOptions, type HeadWeights } from "./weights.js";
