export { type LayerDistance, type TapDistance, type TapSpace, tapDistance } from "./distance.js";
export {
  fitShift,
  MEASURES,
  type Measure,
  SHIFT,
  type ShiftFit,
  type ShiftOptions,
  TAP_CHOICES,
} from "./fit.js";
export type { Space } from "./space.js";
export { BESIDE, INPUT, STORED, type TapStatistics, TEXTURE } from "./statistics.js";
