import { option, type Values } from "../options.js";

/** How scores of images are summarised. */
export const SUMMARISE = {
  /** An image has failed where its Dice is below this; `"auto"`: the Dice that a fifth of the images does not reach. @default 0.8 */
  tau: option.with(option.anyOf(option.number({ min: 0, max: 1 }), option.oneOf(["auto"])), {
    default: 0.8,
    text: "an image has failed below this Dice; auto: where a fifth of the images has",
    arg: "dice",
  }),
  /** What is drawn and tested. @default by group where a group has several images */
  unit: option.oneOf(["group", "image"], {
    otherwise: "group, where one has several images",
    text: "what the bootstrap draws and tests compare: group or image",
    arg: "unit",
  }),
  /** Of the bootstrap, for the intervals. @default 2000 */
  resamples: option.integer({ min: 1, max: 1_000_000, default: 2000, text: "bootstrap resamples for the intervals" }),
  /** Of the bootstrap. @default 0 */
  seed: option.integer({ min: 0, default: 0, text: "seed of the bootstrap" }),
};

/** What may be said of it. */
export interface SummaryOptions extends Values<typeof SUMMARISE> {}
