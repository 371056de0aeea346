import { checkOptions, defaultsOf } from "../options.js";
import { ofOneState, type Run } from "../runs/run.js";
import type { Backbone } from "./backbone.js";
import { ENSEMBLE, type EnsembleOptions } from "./head-options.js";
import type { PlacementOptions } from "./model.js";
import { checkInputSize, loadNetwork, makeNetwork, Network } from "./network.js";
import { autoTaps } from "./taps.js";

/**
 * A layer ensemble (Kushibar et al., MICCAI 2022): one network with a segmentation head on each of several layers, so that
 * one pass gives a segmentation per depth, a fused one, its uncertainty, and how far the layers agree.
 */
export class LayerEnsemble extends Network {
  /** Which of the compared methods it is. */
  readonly method = "le";

  /**
   * Probes the backbone with a dummy image, orders the taps by depth and makes a head for each.
   * @throws ERR_LE_TAP for a tap that does not exist (with the nearest names), did not run or gives no feature map;
   *   ERR_LE_OPTION; ERR_LE_DEVICE
   */
  static async create(backbone: Backbone, given: EnsembleOptions = {}): Promise<LayerEnsemble> {
    const options = { ...defaultsOf(ENSEMBLE), ...checkOptions("LayerEnsemble.create", given, ENSEMBLE) };
    const { taps, inputSize = backbone.probeSize, final } = options;
    checkInputSize(backbone, inputSize);
    const names =
      taps === "auto"
        ? autoTaps(await backbone.probe(inputSize), { final: final !== false, image: inputSize })
        : [...taps];
    const made = { ...options, taps: names, inputSize, headsPerTap: 1, passes: 0 };
    return new LayerEnsemble(await makeNetwork(backbone, made, null));
  }

  /**
   * Loads a run folder: network, heads and best weights. The ensemble owns its backbone.
   * @throws ERR_LE_CHECKPOINT for a folder that is no run of a layer ensemble, or whose weights are cut short or of another
   *   architecture
   */
  static async load(folder: string, options: PlacementOptions = {}): Promise<LayerEnsemble> {
    return ofOneState(folder, (run) => LayerEnsemble.ofRun(folder, run, options));
  }

  /** Of what run.json said when it was read. @internal */
  static async ofRun(folder: string, run: Run, options: PlacementOptions): Promise<LayerEnsemble> {
    return new LayerEnsemble(await loadNetwork(folder, "le", run, options));
  }
}
