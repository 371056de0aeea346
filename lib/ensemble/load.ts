import type { MethodName } from "../runs/methods.js";
import { ofOneState, type Run } from "../runs/run.js";
import { McDropout, MultiHead, Plain } from "./baselines.js";
import { DeepEnsemble } from "./deep-ensemble.js";
import { LayerEnsemble } from "./layer-ensemble.js";
import type { Model, PlacementOptions } from "./model.js";

const CLASSES: Record<MethodName, { ofRun(folder: string, run: Run, options: PlacementOptions): Promise<Model> }> = {
  plain: Plain,
  mh: MultiHead,
  de: DeepEnsemble,
  mcd: McDropout,
  le: LayerEnsemble,
};

/** The model of a run whose run.json is read; see {@link ofOneState}. */
export function modelOf(folder: string, run: Run, options: PlacementOptions): Promise<Model> {
  return CLASSES[run.method].ofRun(folder, run, options);
}

/**
 * Loads a run folder of any method. The model owns its networks.
 * @throws ERR_LE_CHECKPOINT for a folder that is no run, or whose weights are cut short or of another architecture
 */
export async function loadModel(folder: string, options: PlacementOptions = {}): Promise<Model> {
  return ofOneState(folder, (run) => modelOf(folder, run, options));
}
