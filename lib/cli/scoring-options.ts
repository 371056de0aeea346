import { InvalidArgumentError } from "commander";
import { option } from "../options.js";
import { MEASURED } from "../quality/quality.js";
import { SURFACE_OPTIONS } from "../quality/regions.js";
import type { Condition } from "../study/selection.js";
import { SUMMARISE } from "../study/summary-options.js";
import { each, type Parser } from "./arguments.js";

/** Foreground classes by index. */
export const CLASSES = option.array(option.integer({ min: 1, max: 254 }));

/** Conditions on the columns of split.csv. */
export const CONDITIONS = option.custom<readonly Condition[]>("conditions", Array.isArray);

/** What `evaluate` and `compare` are both told of how images are chosen, scored and summarised. */
export const SCORING = {
  where: option.with(CONDITIONS, {
    text: "only images whose split.csv says so: column=value or column!=value; repeatable, all must hold",
    arg: "condition",
  }),
  group: option.string({
    ...{ otherwise: "group", arg: "column" },
    text: "column of split.csv with the groups (patients) of images",
  }),
  scoreClasses: option.with(CLASSES, {
    otherwise: "all",
    text: "foreground classes to score; others count as background in truth, mask and probabilities",
  }),
  spacing: option.with(SURFACE_OPTIONS.spacing, {
    otherwise: "each volume’s own; in pixels where it has none",
    text: SURFACE_OPTIONS.spacing.text,
  }),
  ...MEASURED,
  allowDuplicates: option.boolean({
    text: "score also images that a run was trained on or chosen by under other names",
  }),
  ...SUMMARISE,
};

const condition: Parser<Condition> = (value) => {
  const [, column, not, wanted] = /^([^=!]+)(!?)=(.*)$/.exec(value) ?? [];
  if (column === undefined || wanted === undefined)
    throw new InvalidArgumentError("Expected column=value or column!=value.");
  return { column: column.trim(), equal: not === "", value: wanted.trim() };
};

/** Collects `column=value` and `column!=value`. */
export const conditions = each(condition);
