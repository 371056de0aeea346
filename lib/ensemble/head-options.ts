// How heads are put on a network, by every method.
import { option, type Values } from "../options.js";
import { MOST_PASSES } from "../runs/methods.js";
import { PLACEMENT } from "./model.js";

const side = option.integer({ min: 1, max: 65536 });
const layer = option.string();

const SHARED = {
  ...PLACEMENT,
  /** Classes with background, 2 to 255. @default 2 */
  classes: option.integer({ min: 2, max: 255, default: 2 }),
  /** Dropout before a head's convolution, 0 to below 1, in training and for Monte Carlo dropout. @default 0 */
  dropout: option.number({ min: 0, below: 1, default: 0, text: "dropout in each head", arg: "p" }),
  /** Train the heads only; the backbone's weights and batch-norm statistics stay. @default false */
  freezeBackbone: option.boolean({ default: false, text: "train the heads only" }),
  /** Spatial size of the probe's dummy image. @default the backbone's `probeSize` */
  inputSize: option.anyOf(option.array(side, { length: 2 }), option.array(side, { length: 3 })),
  /** Seed of the heads' initial weights. @default 0 */
  seed: option.integer({ min: 0, default: 0 }),
};

export const ENSEMBLE = {
  ...SHARED,
  /** Names of layers, or `"auto"`: see {@link autoTaps}. `[]` is the plain network. @default "auto" */
  taps: option.with(option.anyOf(option.oneOf(["auto"]), option.array(layer)), { default: "auto" }),
  /** Whether the backbone's own output is the last head; `"auto"`: where it has as many channels as classes. @default "auto" */
  final: option.oneOf([true, false, "auto"], { default: "auto" }),
  /** `"given"` keeps the order of `taps`; agreement is then between neighbours in that order. @default "execution" */
  order: option.oneOf(["execution", "given"], { default: "execution" }),
  /** First heads to leave out of predictions, unless a call says otherwise. @default 0 */
  skip: option.integer({ min: 0, default: 0 }),
};

/** How a layer ensemble is made of a backbone. */
export interface EnsembleOptions extends Values<typeof ENSEMBLE> {}

export const BASELINE = {
  ...SHARED,
  /**
   * The layer that the heads are on. @default Plain and Monte Carlo dropout: the network's own output is the head where it
   * is a map of as many channels as classes; else, and for multi-head always, the feature map that the network's own output
   * is made of: see {@link Backbone.features}
   */
  tap: layer,
};

/** What every method makes of a backbone alike. */
export interface BaselineOptions extends Values<typeof BASELINE> {}

/** How many networks, heads or passes the methods have that Layer Ensembles are compared with. */
export const COUNTS = {
  /** Networks of a deep ensemble, at least 2. @default 5 */
  members: option.integer({ min: 2, max: 1000, default: 5, text: "de: networks" }),
  /** Heads of a multi-head network, at least 2. @default 10 */
  heads: option.integer({ min: 2, max: 1000, default: 10, text: "mh: heads" }),
  /** Passes of each image with Monte Carlo dropout, at least 2. @default 10 */
  passes: option.integer({ min: 2, max: MOST_PASSES, default: 10, text: "mcd: passes of each image" }),
};
