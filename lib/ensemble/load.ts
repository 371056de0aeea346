import { McDropout, MultiHead, Plain } from "./baselines.js";
import { DeepEnsemble } from "./deep-ensemble.js";
import { LayerEnsemble } from "./layer-ensemble.js";
import type { MethodName } from "./methods.js";
import type { Model, PlacementOptions } from "./model.js";
import { readRun } from "./run.js";

const LOADERS: Record<MethodName, (folder: string, options: PlacementOptions) => Promise<Model>> = {
  plain: (folder, options) => Plain.load(folder, options),
  mh: (folder, options) => MultiHead.load(folder, options),
  de: (folder, options) => DeepEnsemble.load(folder, options),
  mcd: (folder, options) => McDropout.load(folder, options),
  le: (folder, options) => LayerEnsemble.load(folder, options),
};

/**
 * Loads a run folder of any method. The model owns its networks.
 * @throws ERR_LE_CHECKPOINT for a folder that is no run, or whose weights are cut short or of another architecture
 */
export async function loadModel(folder: string, options: PlacementOptions = {}): Promise<Model> {
  const { method } = await readRun(folder);
  return LOADERS[method](folder, options);
}
