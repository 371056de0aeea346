import type { Command } from "commander";
import type { BackboneKind, BackboneOptions } from "../ensemble/backbone.js";
import { integer, list, oneOf } from "./arguments.js";

/** Networks that can be named on the command line. */
export const KINDS = ["unet", "plain-unet", "resnet18", "resnet34", "resnet50"] as const satisfies BackboneKind[];

/** The options that shape a network. */
export interface BackboneFlags {
  encoder?: "resnet18" | "resnet34" | "resnet50";
  decoderChannels?: number[];
  attention?: "scse" | "none";
  preset?: "paper";
  width?: number;
  depth?: number;
}

/** Adds the options that shape a network to a command. */
export function withBackboneOptions(command: Command): Command {
  return command
    .option("--encoder <name>", "unet: resnet18, resnet34 or resnet50", oneOf(["resnet18", "resnet34", "resnet50"]))
    .option("--decoder-channels <list>", "unet: channels of its five decoder blocks", list(integer({ min: 1 })))
    .option("--attention <kind>", "unet: scse or none, in the decoder", oneOf(["scse", "none"]))
    .option("--preset <name>", "unet: paper, the set-up of Kushibar et al. (2022)", oneOf(["paper"]))
    .option("--width <n>", "plain-unet: channels of its first level", integer({ min: 1 }))
    .option("--depth <n>", "plain-unet: levels below the first", integer({ min: 1, max: 8 }));
}

/** What was given of them; `Backbone.create` refuses what does not concern the kind. */
export function backboneOptions(flags: BackboneFlags): BackboneOptions {
  const { encoder, decoderChannels, attention, preset, width, depth } = flags;
  return {
    ...(encoder !== undefined && { encoder }),
    ...(decoderChannels !== undefined && { decoderChannels }),
    ...(attention !== undefined && { attention: attention === "none" ? null : attention }),
    ...(preset !== undefined && { preset }),
    ...(width !== undefined && { width }),
    ...(depth !== undefined && { depth }),
  };
}
