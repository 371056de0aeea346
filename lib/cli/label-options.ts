import type { Command } from "commander";
import { InvalidArgumentError } from "commander";
import { describeIgnored, type Ignored, type LabelOptions } from "../data/labels.js";
import { integer, oneOf, type Parser } from "./arguments.js";
import type { Session } from "./command.js";

/** Values of `--labels`. */
export const SCALES = ["auto", "index", "0/255"] as const;

/** What a command is told of how masks store labels. */
export interface LabelFlags {
  labels?: (typeof SCALES)[number];
  ignore?: number | null;
}

/** `none` or any whole number. */
export const ignoredLabelOf: Parser<number | null> = (value) => {
  if (value === "none") return null;
  try {
    return integer({ min: -(2 ** 31), max: 2 ** 32 })(value);
  } catch {
    throw new InvalidArgumentError("Expected a whole number, or none.");
  }
};

/** Adds the options of {@link LabelFlags} to a command. @param otherwise what holds without them */
export function withLabelOptions(command: Command, otherwise: { labels: string; ignore: string }): Command {
  return command
    .option(
      "--labels <scale>",
      `what masks hold: index: classes; 0/255: 255 is class 1; auto: by all masks together (default: ${otherwise.labels})`,
      oneOf(SCALES),
    )
    .option(
      "--ignore <label>",
      `number in masks that does not count, or none (default: ${otherwise.ignore})`,
      ignoredLabelOf,
    );
}

/** The same as options of a dataset. */
export function labelsOf({ labels, ignore }: LabelFlags): LabelOptions {
  return { ...(labels !== undefined && { scale: labels }), ...(ignore !== undefined && { ignore }) };
}

/** Says what does not count, where anything does not. @param label as stored, where it is known */
export function noteIgnored(session: Session, ignored: Ignored, of: number, label?: number | null): void {
  const said = describeIgnored(ignored, of, label);
  if (said !== undefined) session.note(said);
}

/** Names a mask whose 255 may be the foreground though it does not count by what was said: see `unclearMask`. */
export function noteUnclear(session: Session, mask: string | undefined): void {
  if (mask === undefined) return;
  session.note(
    `warning: the mask ${mask} holds 0 and 255 alone: by --labels or --ignore, or the training's, 255 does not count there (--labels 0/255 where it is class 1)`,
  );
}
