import { checkOptions, type OptionSpecs, option } from "../options.js";
import type { Backbone } from "./backbone.js";
import { PLACEMENT, type PlacementOptions } from "./model.js";
import { checkInputSize, loadNetwork, makeNetwork, Network } from "./network.js";
import { autoTaps } from "./taps.js";

/** How a layer ensemble is made of a backbone. */
export interface EnsembleOptions extends PlacementOptions {
  /** Names of layers, or `"auto"`: see {@link autoTaps}. `[]` is the plain network. @default "auto" */
  taps?: readonly string[] | "auto";
  /** Classes with background, 2 to 255. @default 2 */
  classes?: number;
  /** Whether the backbone's own output is the last head; `"auto"`: where it has as many channels as classes. @default "auto" */
  final?: boolean | "auto";
  /** `"given"` keeps the order of `taps`; agreement is then between neighbours in that order. @default "execution" */
  order?: "execution" | "given";
  /** Dropout before each head's convolution, 0 to below 1, in training. @default 0 */
  dropout?: number;
  /** Train the heads only; the backbone's weights and batch-norm statistics stay. @default false */
  freezeBackbone?: boolean;
  /** Spatial size of the probe's dummy image. @default the backbone's `probeSize` */
  inputSize?: readonly number[];
  /** Seed of the heads' initial weights. @default 0 */
  seed?: number;
  /** First heads to leave out of predictions, unless a call says otherwise. @default 0 */
  skip?: number;
}

const ENSEMBLE: OptionSpecs = {
  ...PLACEMENT,
  taps: option.anyOf(option.oneOf(["auto"]), option.array(option.string())),
  classes: option.integer({ min: 2, max: 255 }),
  final: option.oneOf([true, false, "auto"]),
  order: option.oneOf(["execution", "given"]),
  dropout: option.number({ min: 0, below: 1 }),
  freezeBackbone: option.boolean(),
  inputSize: option.anyOf(
    option.array(option.integer({ min: 1, max: 65536 }), { length: 2 }),
    option.array(option.integer({ min: 1, max: 65536 }), { length: 3 }),
  ),
  seed: option.integer({ min: 0 }),
  skip: option.integer({ min: 0 }),
};

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
    const options = checkOptions("LayerEnsemble.create", given, ENSEMBLE);
    const { taps = "auto", inputSize = backbone.probeSize, final = "auto" } = options;
    checkInputSize(backbone, inputSize);
    const names =
      taps === "auto"
        ? autoTaps(await backbone.probe(inputSize), { final: final !== false, image: inputSize })
        : [...taps];
    const { classes = 2, order = "execution", dropout = 0, freezeBackbone = false, seed = 0, skip = 0 } = options;
    const settings = { taps: names, classes, final, order, dropout, freezeBackbone, inputSize, seed, skip };
    const { device, precision, channelsLast } = options;
    const placement = {
      ...(device !== undefined && { device }),
      ...(precision !== undefined && { precision }),
      ...(channelsLast !== undefined && { channelsLast }),
    };
    const made = { ...settings, ...placement, headsPerTap: 1, passes: 0 };
    return new LayerEnsemble(await makeNetwork(backbone, made, null));
  }

  /**
   * Loads a run folder: network, heads and best weights. The ensemble owns its backbone.
   * @throws ERR_LE_CHECKPOINT for a folder that is no run of a layer ensemble, or whose weights are cut short or of another
   *   architecture
   */
  static async load(folder: string, options: PlacementOptions = {}): Promise<LayerEnsemble> {
    return new LayerEnsemble(await loadNetwork(folder, "le", options));
  }
}
