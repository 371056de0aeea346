import { type Command, InvalidArgumentError } from "commander";
import { option } from "../options.js";
import type { Condition } from "../study/selection.js";
import { integer, list, number, oneOf, type Parser, parserOf, text } from "./arguments.js";

/** What `evaluate` and `compare` are both told of how images are chosen, scored and summarised. */
export interface ScoringFlags {
  scoreClasses?: number[];
  spacing?: number[];
  where?: Condition[];
  group?: string;
  tau: number | "auto";
  unit?: "group" | "image";
  resamples: number;
  seed: number;
  allowDuplicates?: boolean;
}

/** Adds the options of {@link ScoringFlags} to a command. */
export function withScoringOptions(command: Command): Command {
  return command
    .option("--score-classes <list>", "foreground classes to score; others count as background (default: all)", classes)
    .option(
      "--spacing <list>",
      "distance of neighbouring pixels along each axis, as 0.8,0.8 (default: 1 each)",
      spacing,
    )
    .option(
      "--where <condition>",
      "only images whose split.csv says so: column=value or column!=value; repeatable",
      conditions,
    )
    .option("--group <column>", "column of split.csv with the groups (patients) of images (default: group)", text)
    .option("--allow-duplicates", "score also images that a run was trained on or chosen by under other names")
    .option("--tau <dice>", "an image has failed below this Dice; auto: where a fifth of the images has", tau, 0.8)
    .option(
      "--unit <unit>",
      "what is drawn and tested: group or image (default: group, where one has several images)",
      oneOf(["group", "image"]),
    )
    .option("--resamples <n>", "bootstrap resamples for the intervals", integer({ min: 1, max: 1_000_000 }), 2000)
    .option("--seed <n>", "seed of the bootstrap", integer({ min: 0 }), 0);
}

/** Positive numbers, one per axis. */
export const spacing: Parser<number[]> = (value) => {
  const values = list(number({ min: 0 }))(value);
  if (values.some((one) => one === 0)) throw new InvalidArgumentError("Expected numbers above 0.");
  return values;
};

/** Foreground classes by index. */
export const classes: Parser<number[]> = list(integer({ min: 1, max: 254 }));

/** Collects `column=value` and `column!=value`. */
export function conditions(value: string, before: Condition[] = []): Condition[] {
  const [, column, not, wanted] = /^([^=!]+)(!?)=(.*)$/.exec(value) ?? [];
  if (column === undefined || wanted === undefined)
    throw new InvalidArgumentError("Expected column=value or column!=value.");
  return [...before, { column: column.trim(), equal: not === "", value: wanted.trim() }];
}

const tau = parserOf(option.anyOf(option.number({ min: 0, max: 1 }), option.oneOf(["auto"])));
