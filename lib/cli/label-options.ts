import { describeIgnored, type Ignored, LABEL_OPTIONS, type LabelOptions } from "../data/labels.js";
import { option, type Values } from "../options.js";
import { type Parser, parserOf } from "./arguments.js";
import type { Session } from "./command.js";

/** What a command is told of how masks store labels. @param otherwise what holds without them */
export const labelSpecs = (otherwise: { labels: string; ignore: string }) => ({
  labels: option.with(LABEL_OPTIONS.scale, {
    otherwise: otherwise.labels,
    text: "what masks hold: index: classes; 0/255: 255 is class 1; auto: by all masks together",
    arg: "scale",
  }),
  ignore: option.with(LABEL_OPTIONS.ignore, {
    otherwise: otherwise.ignore,
    text: "number in masks that does not count, or none",
    arg: "label",
  }),
});

/** What may be given of them. */
export type LabelFlags = Values<ReturnType<typeof labelSpecs>>;

/** `none` or any whole number. */
export const ignoredLabelOf: Parser<number | null> = parserOf(LABEL_OPTIONS.ignore);

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

/** The most that is said of single files. */
const MOST_SAID = 5;

/** Says what a person should know of the files. */
export function noteWarnings(session: Session, warnings: readonly string[]): void {
  for (const warning of warnings.slice(0, MOST_SAID)) session.note(`warning: ${warning}`);
  if (warnings.length > MOST_SAID) session.note(`warning: ${warnings.length - MOST_SAID} more files say such things`);
}
