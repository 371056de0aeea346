// The part of `tune` that learns what the training's images look like.
import type { Dataset } from "../data/dataset.js";
import type { Model } from "../ensemble/model.js";
import { LayerEnsemblesError } from "../errors.js";
import type { LearnedShift } from "../inference/shift.js";
import { option, type Values } from "../options.js";
import { fixed } from "../results/format.js";
import { SHIFT, TAP_CHOICES } from "../shift/index.js";
import { list, type Parser, text } from "./arguments.js";
import type { Session } from "./command.js";
import { counter, type StatusLine } from "./progress.js";

/** Its options. */
export const SHIFT_OPTIONS = {
  shift: option.boolean({ default: true, text: "do not learn what the training images look like" }),
  taps: option.with(SHIFT.taps, {
    default: "early",
    text: "layers whose features tell an image from those of the training: early (the first of ten), all, or names",
    arg: "taps",
  }),
  measure: option.with(SHIFT.measure, {
    default: "mahalanobis",
    text: "how far an image is from them: mahalanobis, or neighbours (the fifth nearest)",
  }),
};

/** `early`, `all`, or names. */
export const tapsNamed: Parser<NonNullable<Values<typeof SHIFT>["taps"]>> = (value) =>
  TAP_CHOICES.find((choice) => choice === value) ?? list(text)(value);

/** What it works on. */
interface Place {
  model: Model;
  /** Null where the data folder does not have the training's split. */
  training: Dataset | null;
  validation: Dataset;
  session: Session;
  line: StatusLine;
}

/**
 * Learns it, or notes why that cannot be: too few images, or a network without feature maps, are no reason not to tune.
 * @returns undefined where it was not to be learned, or cannot be
 */
export async function learn(
  { shift, taps, measure }: Values<typeof SHIFT_OPTIONS>,
  { model, training, validation, session, line }: Place,
): Promise<LearnedShift | undefined> {
  if (!shift) return undefined;
  const refuse = (why: string) => {
    session.note(`warning: what the training images look like is not learned: ${why}`);
    return undefined;
  };
  if (!training) return refuse("the data folder does not have them.");
  const { learnShift } = await import("../inference/shift.js");
  const told: { tell?: (done: number) => void } = {};
  try {
    return await learnShift(model, {
      ...{ training, validation, signal: session.signal },
      ...(taps && { taps }),
      ...(measure && { measure }),
      onProgress: (done, images) => {
        told.tell ??= counter(line, "learning what the training looks like", images);
        told.tell(done);
      },
    });
  } catch (error) {
    const isOfImages = error instanceof LayerEnsemblesError && ["ERR_LE_SHAPE", "ERR_LE_VALUE"].includes(error.code);
    const hasNoMaps = error instanceof LayerEnsemblesError && /automatic taps/.test(error.message);
    if (isOfImages || hasNoMaps) return refuse(error.message);
    throw error;
  }
}

/** In words. */
export function describeLearned({ fit, threshold, flagged }: LearnedShift, isGate: boolean): string {
  const { training, validation } = fit.images;
  const of = `${training} training images at ${fit.chosen.join(", ")}, ranked among ${validation} of validation`;
  const asked = `flag an image whose excess distance is above ${Number(threshold.threshold.toPrecision(6))} (${fixed(100 * flagged, 1)} % of the images)`;
  return `Distance from ${of}.\n${isGate ? `Gate, too: ${asked}\n` : ""}`;
}
