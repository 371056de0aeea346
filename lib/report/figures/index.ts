import type { Comparison } from "../../results/comparison.js";
import { acceptanceFigure } from "./acceptance.js";
import { agreementFigure } from "./agreement.js";
import { aulaDiceFigure } from "./aula-dice.js";
import { boundsFigure } from "./bounds.js";
import type { Figure } from "./figure.js";
import { mapsFigure } from "./maps.js";
import { predictionDepthFigure } from "./prediction-depth.js";
import { qualityControlFigure } from "./quality-control.js";
import { reliabilityFigure } from "./reliability.js";
import { distanceFigure, shiftFigure } from "./shift.js";
import { skipCurveFigure } from "./skip-curve.js";
import { streamFigure } from "./stream.js";

export type { Figure } from "./figure.js";
export { rasterise } from "./raster.js";
export { skipCurveFigure } from "./skip-curve.js";
export { alarmFigure } from "./stream.js";

/** All figures that a comparison has the numbers for, in order. */
export async function comparisonFigures(comparison: Comparison): Promise<Figure[]> {
  const figures = [
    await mapsFigure(comparison),
    await qualityControlFigure(comparison),
    await skipFigure(comparison),
    await agreementFigure(comparison),
    await aulaDiceFigure(comparison),
    await predictionDepthFigure(comparison),
    await reliabilityFigure(comparison),
    await shiftFigure(comparison),
    await distanceFigure(comparison),
    await streamFigure(comparison),
    await acceptanceFigure(comparison),
    await boundsFigure(comparison),
  ];
  return figures.filter((figure) => figure !== undefined);
}

/** Figure 3 of the first run whose skipped heads were chosen by measuring. */
async function skipFigure(comparison: Comparison): Promise<Figure | undefined> {
  const run = comparison.runs.find((run) => run.skipCurve?.length);
  return run?.skipCurve && skipCurveFigure(run.skipCurve, run.skip);
}
