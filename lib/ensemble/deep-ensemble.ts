import { existsSync } from "node:fs";
import path from "node:path";
import { LayerEnsemblesError } from "../errors.js";
import { withFolder } from "../native/folder-lock.js";
import { checkOptions } from "../options.js";
import { type Learned, NOTHING_LEARNED, readLearned } from "../runs/learned.js";
import type { RunPredictedDice } from "../runs/predicted-dice.js";
import {
  checkPrediction,
  keptOf,
  ofOneState,
  RUN_FILES,
  type Run,
  type RunContent,
  readRun,
  replaceRun,
  type Tuned,
  tunedOf,
  writeRun,
} from "../runs/run.js";
import { keepShift, type RunShift, removeOtherShifts } from "../runs/shift.js";
import type { RunTiles } from "../runs/tiles.js";
import type { Backbone } from "./backbone.js";
import { Plain } from "./baselines.js";
import type { FitOptions } from "./fit-options.js";
import { BASELINE, type BaselineOptions, COUNTS } from "./head-options.js";
import type { Head, Model, PlacementOptions } from "./model.js";
import { checkFit, hasBegun } from "./network.js";
import { type HeadSource, Predictor } from "./predictor.js";
import { SampleGuard } from "./sample-guard.js";
import { gather } from "./samples.js";
import { tilesOfPatch } from "./tiles.js";
import type { History, SampleSource, TrainingEvent } from "./training.js";

/** Folder of one member's run in that of a deep ensemble. Members count from 1. */
export function memberFolder(run: string, member: number): string {
  return path.join(run, "members", String(member));
}

/** An event of training, and of which member. */
export type MemberEvent = TrainingEvent & {
  /** Which member, from 1. */
  member: number;
  /** How many there are. */
  members: number;
};

/** How a deep ensemble is trained: as one network, each from its own seed. */
export interface DeepFitOptions extends Omit<FitOptions, "onProgress"> {
  /** Called at most ten times a second, and after each epoch of each member. */
  onProgress?: (event: MemberEvent) => void;
}

/**
 * A deep ensemble (Lakshminarayanan et al. 2017): several networks of one architecture, trained from different seeds. Each
 * gives one head.
 */
export class DeepEnsemble extends Predictor implements Model {
  /** Which of the compared methods it is. */
  readonly method = "de";
  readonly #members: readonly Plain[];
  readonly #ownsBackbones: boolean;
  /** As chosen for the weights that the members were loaded with. */
  #tuned: Tuned;
  #learned: Learned;
  /** What run.json said, for a model that was loaded from a run. What a tuning chose holds until the next `fit`. */
  readonly run: Run | undefined;

  private constructor(
    members: readonly Plain[],
    ownsBackbones: boolean,
    run?: Run,
    learned: Learned = NOTHING_LEARNED,
  ) {
    super();
    this.#members = members;
    this.#ownsBackbones = ownsBackbones;
    this.run = run;
    this.#tuned = tunedOf(run);
    this.#learned = learned;
  }

  /** How the Dice of its masks is predicted; until the next `fit`. */
  get predictedDice(): RunPredictedDice {
    return this.#learned.predictedDice;
  }

  /** What is known of the training's images; until the next `fit`. */
  get shift(): RunShift {
    return this.#learned.shift;
  }

  /**
   * Makes the members one after another.
   * @param makeBackbone makes the backbone of one member, from its seed; the ensemble owns it
   * @param options.members how many, at least 2. Default: 5
   * @param options.seed of the first member; each next one has the next. Default: 0
   * @throws as `makeBackbone` does; ERR_LE_OPTION, ERR_LE_TAP, ERR_LE_DEVICE
   */
  static async create(
    makeBackbone: (seed: number) => Promise<Backbone>,
    options: BaselineOptions & { members?: number } = {},
  ): Promise<DeepEnsemble> {
    const specs = { ...BASELINE, members: COUNTS.members };
    const { members = COUNTS.members.default, seed = 0, ...rest } = checkOptions("DeepEnsemble.create", options, specs);
    return DeepEnsemble.#gatherMembers(members, async (i) => {
      const backbone = await makeBackbone(seed + i);
      try {
        return await Plain.create(backbone, { ...rest, seed: seed + i });
      } catch (error) {
        await backbone.dispose();
        throw error;
      }
    });
  }

  /**
   * Loads a run folder and those of its members.
   * @throws ERR_LE_CHECKPOINT for a folder that is no run of a deep ensemble, or of which a member is not trained
   */
  static async load(folder: string, options: PlacementOptions = {}): Promise<DeepEnsemble> {
    return ofOneState(folder, (run) => DeepEnsemble.ofRun(folder, run, options));
  }

  /** Of what run.json said when it was read. @internal */
  static async ofRun(folder: string, run: Run, options: PlacementOptions): Promise<DeepEnsemble> {
    if (run.method !== "de" || !Number.isInteger(run.members) || (run.members as number) < 1)
      throw new LayerEnsemblesError(
        "ERR_LE_CHECKPOINT",
        `Expected a run of a deep ensemble in ${folder} but received one of method ${run.method}: loadModel() takes any.`,
      );
    const names = Array.from({ length: run.members as number }, (_, i) => `member ${i + 1}`);
    checkPrediction(run, names, folder);
    for (let member = 1; member <= (run.members as number); member++)
      if (!existsSync(path.join(memberFolder(folder, member), RUN_FILES.weights)))
        throw new LayerEnsemblesError(
          "ERR_LE_CHECKPOINT",
          `Expected ${run.members} trained members in ${folder} but received no weights of member ${member}: its training was stopped; resume it.`,
        );
    return DeepEnsemble.#gatherMembers(run.members as number, (i) => Plain.load(memberFolder(folder, i + 1), options), {
      run,
      learned: await readLearned(folder, run),
    });
  }

  static async #gatherMembers(
    count: number,
    make: (index: number) => Promise<Plain>,
    loaded?: { run: Run; learned: Learned },
  ) {
    const members: Plain[] = [];
    try {
      for (let i = 0; i < count; i++) members.push(await make(i));
      return new DeepEnsemble(members, loaded === undefined, loaded?.run, loaded?.learned);
    } catch (error) {
      for (const member of members) {
        await member.dispose();
        if (!loaded) await member.backbone.dispose();
      }
      throw error;
    }
  }

  get #first(): Plain {
    return this.#members[0] as Plain;
  }

  /** The networks, each a model of its own. */
  get members(): readonly Plain[] {
    return this.#members;
  }

  /** Of the first member. */
  get heads(): readonly Head[] {
    return this.#first.heads;
  }

  /** Of the first member. */
  get backbone(): Backbone {
    return this.#first.backbone;
  }

  /** Number of classes with background. */
  get classes(): number {
    return this.#first.classes;
  }

  /** Where it runs, such as `cpu` or `cuda:0`. */
  get device(): string {
    return this.#first.device;
  }

  /** Numbers in which the networks run. */
  get precision(): "fp32" | "bf16" {
    return this.#first.precision;
  }

  /** Trainable numbers of all members. */
  get parameters(): number {
    return this.#members.reduce((sum, member) => sum + member.parameters, 0);
  }

  /** Members left out of predictions, unless a call says otherwise. */
  get skip(): number {
    return this.run?.skip ?? 0;
  }

  protected source(): HeadSource {
    const members = this.#members.map((member) => member.member());
    return {
      addon: (members[0] as (typeof members)[0]).addon,
      handles: members.map(({ handle }) => handle),
      method: this.method,
      headNames: () => this.#members.map((_, i) => `member ${i + 1}`),
      passes: 0,
      skip: this.skip,
      spatialAxes: this.backbone.spatialAxes,
      inputSize: this.#first.described().ensemble.inputSize,
      tiles: this.#first.tiles,
      tuned: this.#tuned.prediction,
      learned: this.#learned,
      watched: () => this.#first.watched(),
    };
  }

  /**
   * Trains the members one after another, each with the next seed. With `run`, each has a run folder in `members/`, and
   * with `resume` those that are done are passed over and the one that was stopped goes on where it was.
   * @returns one history for each member
   * @throws as `fit` of one network
   */
  async fit(training: SampleSource, options: DeepFitOptions = {}): Promise<History[]> {
    const { run, validation, seed = 0, onProgress, notes = {}, ...rest } = checkFit(options);
    if (run !== undefined)
      for (let member = 1; member <= this.#members.length; member++)
        hasBegun(memberFolder(run, member), rest.resume ?? false);
    const { addon } = this.#first.member();
    const axes = this.backbone.spatialAxes;
    const guard = new SampleGuard(training, { validation, ...rest });
    const data = await gather(addon, training, axes, "training", rest.signal, guard);
    const held = validation && (await gather(addon, validation, axes, "validation", rest.signal, guard));
    const histories: History[] = [];
    const trainAll = async () => {
      const before = run !== undefined && existsSync(path.join(run, RUN_FILES.run)) ? await readRun(run) : undefined;
      const tiles = rest.patch ? tilesOfPatch(rest.patch) : null;
      if (run !== undefined) await this.#writeRun(run, notes, keptOf(before, {}), tiles);
      this.#tuned = {};
      this.#learned = NOTHING_LEARNED;
      for (const [i, member] of this.#members.entries()) {
        const own = {
          ...rest,
          ...(guard.ignoreIndex !== undefined && { ignoreIndex: guard.ignoreIndex }),
          ...(held && { validation: held }),
          seed: seed + i,
          notes,
          ...(run !== undefined && { run: memberFolder(run, i + 1) }),
          ...(onProgress && {
            onProgress: (event: TrainingEvent) =>
              onProgress({ ...event, member: i + 1, members: this.#members.length }),
          }),
        };
        histories.push(await member.fit(data, own));
      }
    };
    await (run === undefined ? trainAll() : withFolder(run, trainAll));
    return histories;
  }

  /**
   * Writes a run folder that {@link DeepEnsemble.load} reads.
   * @param notes more facts for run.json
   * @throws ERR_LE_IO
   */
  async save(folder: string, notes: Record<string, unknown> = {}): Promise<void> {
    const members = this.#members.map((member, i) => () => member.save(memberFolder(folder, i + 1), notes));
    await withFolder(folder, () =>
      replaceRun(folder, members, () =>
        this.#writeRun(folder, notes, keptOf(this.run, this.#tuned), this.tiles, this.shift),
      ),
    );
  }

  async #writeRun(
    folder: string,
    notes: Record<string, unknown>,
    { tiles: _, ...kept }: Partial<Run>,
    tiles: RunTiles | null,
    shift?: RunShift,
  ): Promise<void> {
    const { backbone, ensemble } = this.#first.described();
    const content: RunContent = {
      ...kept,
      method: "de",
      members: this.#members.length,
      backbone,
      ensemble,
      skip: this.skip,
      ...(tiles && { tiles }),
      notes: { ...this.run?.notes, ...notes },
    };
    const run = await keepShift(folder, content, shift);
    await writeRun(folder, run);
    await removeOtherShifts(folder, run);
  }

  /** Waits for what is under way, then frees all members. */
  async dispose(): Promise<void> {
    for (const member of this.#members) {
      await member.dispose();
      if (this.#ownsBackbones) await member.backbone.dispose();
    }
  }

  /** As {@link dispose}; for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}
