// The methods that Layer Ensembles are compared with and that are one network (SPEC §3).
import path from "node:path";
import { LayerEnsemblesError } from "../errors.js";
import { checkOptions, defaultsOf } from "../options.js";
import { asDamaged, ofOneState, RUN_FILES, type Run } from "../runs/run.js";
import type { Backbone } from "./backbone.js";
import { BASELINE, type BaselineOptions, COUNTS } from "./head-options.js";
import type { PlacementOptions } from "./model.js";
import {
  checkInputSize,
  loadNetwork,
  makeNetwork,
  Network,
  type NetworkOptions,
  type NetworkParts,
} from "./network.js";

/** The plain network: its own output is the one head. */
export class Plain extends Network {
  /** Which of the compared methods it is. */
  readonly method = "plain";

  /** @throws ERR_LE_TAP, ERR_LE_OPTION, ERR_LE_DEVICE */
  static async create(backbone: Backbone, options: BaselineOptions = {}): Promise<Plain> {
    return new Plain(await oneHead(backbone, checkOptions("Plain.create", options, BASELINE), 0));
  }

  /**
   * Loads a run folder. The model owns its backbone.
   * @throws ERR_LE_CHECKPOINT for a folder that is no run of a plain network, or whose weights do not fit
   */
  static async load(folder: string, options: PlacementOptions = {}): Promise<Plain> {
    return ofOneState(folder, (run) => Plain.ofRun(folder, run, options));
  }

  /** Of what run.json said when it was read. @internal */
  static async ofRun(folder: string, run: Run, options: PlacementOptions): Promise<Plain> {
    return new Plain(await loadNetwork(folder, "plain", run, options));
  }
}

/** Several heads of different first weights on one feature map, the one that the network's own output is made of. */
export class MultiHead extends Network {
  /** Which of the compared methods it is. */
  readonly method = "mh";

  /**
   * @param options.heads how many, at least 2. Default: 10
   * @throws ERR_LE_TAP, ERR_LE_OPTION, ERR_LE_DEVICE
   */
  static async create(backbone: Backbone, options: BaselineOptions & { heads?: number } = {}): Promise<MultiHead> {
    const specs = { ...BASELINE, heads: COUNTS.heads };
    const { heads = COUNTS.heads.default, ...rest } = checkOptions("MultiHead.create", options, specs);
    const settings = withDefaults(backbone, rest);
    const tap = rest.tap ?? (await backbone.features(settings.inputSize));
    const parts = await makeNetwork(backbone, { ...settings, taps: [tap], final: false, headsPerTap: heads }, null);
    return new MultiHead(parts);
  }

  /**
   * Loads a run folder. The model owns its backbone.
   * @throws ERR_LE_CHECKPOINT for a folder that is no run of a multi-head network, or whose weights do not fit
   */
  static async load(folder: string, options: PlacementOptions = {}): Promise<MultiHead> {
    return ofOneState(folder, (run) => MultiHead.ofRun(folder, run, options));
  }

  /** Of what run.json said when it was read. @internal */
  static async ofRun(folder: string, run: Run, options: PlacementOptions): Promise<MultiHead> {
    return new MultiHead(await loadNetwork(folder, "mh", run, options));
  }
}

/**
 * Monte Carlo dropout (Gal and Ghahramani 2016): one network with dropout, and several passes of each image in which it
 * drops. The passes of one image draw the same numbers whatever is predicted beside it.
 */
export class McDropout extends Network {
  /** Which of the compared methods it is. */
  readonly method = "mcd";

  /**
   * @param options.passes of each image, at least 2. Default: 10
   * @throws ERR_LE_OPTION also for a backbone without dropout where `dropout` is 0 or the head is the network's own output
   */
  static async create(backbone: Backbone, options: BaselineOptions & { passes?: number } = {}): Promise<McDropout> {
    const specs = { ...BASELINE, passes: COUNTS.passes };
    const { passes = COUNTS.passes.default, ...rest } = checkOptions("McDropout.create", options, specs);
    const parts = await oneHead(backbone, rest, passes);
    if (parts.made.hasDropout) return new McDropout(parts);
    await parts.addon.disposeEnsemble(parts.handle);
    throw noDropout();
  }

  /**
   * Loads a run folder. The model owns its backbone.
   * @throws ERR_LE_CHECKPOINT for a folder that is no run of Monte Carlo dropout, or whose weights do not fit
   */
  static async load(folder: string, options: PlacementOptions = {}): Promise<McDropout> {
    return ofOneState(folder, (run) => McDropout.ofRun(folder, run, options));
  }

  /** Of what run.json said when it was read. @internal */
  static async ofRun(folder: string, run: Run, options: PlacementOptions): Promise<McDropout> {
    const parts = await loadNetwork(folder, "mcd", run, options);
    if (parts.made.hasDropout) return new McDropout(parts);
    await parts.addon.disposeEnsemble(parts.handle);
    await parts.backbone.dispose();
    throw asDamaged(path.join(folder, RUN_FILES.run), noDropout());
  }
}

function noDropout(): LayerEnsemblesError {
  return new LayerEnsemblesError(
    "ERR_LE_OPTION",
    "Expected a backbone with dropout for Monte Carlo dropout but received one without: give the backbone option 'dropout', or 'tap' and 'dropout' for a head with it.",
  );
}

function withDefaults(backbone: Backbone, { tap: _tap, ...options }: BaselineOptions) {
  const { inputSize = backbone.probeSize } = options;
  checkInputSize(backbone, inputSize);
  const fixed = { inputSize, order: "given" as const, headsPerTap: 1, skip: 0, passes: 0 };
  return { ...defaultsOf(BASELINE), ...options, ...fixed };
}

/** One head: the network's own output where that will do, else one on the feature map that it is made of. */
async function oneHead(backbone: Backbone, options: BaselineOptions, passes: number): Promise<NetworkParts> {
  const settings = { ...withDefaults(backbone, options), passes };
  const on = (tap: string): NetworkOptions => ({ ...settings, taps: [tap], final: false });
  if (options.tap !== undefined) return makeNetwork(backbone, on(options.tap), null);
  const shape = await backbone.outputShape(settings.inputSize);
  if (shape[1] === settings.classes) return makeNetwork(backbone, { ...settings, taps: [], final: true }, null);
  return makeNetwork(backbone, on(await backbone.features(settings.inputSize)), null);
}
