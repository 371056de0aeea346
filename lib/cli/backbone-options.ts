import type { Command } from "commander";
import type { BackboneKind, BackboneOptions, EncoderName } from "../ensemble/backbone.js";
import { integer, list, number, oneOf } from "./arguments.js";

/** Networks that can be named on the command line. */
export const KINDS = [
  "unet",
  "deeplabv3plus",
  "fpn",
  "plain-unet",
  "unet3d",
  "resnet18",
  "resnet34",
  "resnet50",
  "resnet101",
] as const satisfies BackboneKind[];

const ENCODERS = ["resnet18", "resnet34", "resnet50", "resnet101"] as const satisfies EncoderName[];

/** The options that shape a network. */
export interface BackboneFlags {
  encoder?: EncoderName;
  decoderChannels?: number[];
  attention?: "scse" | "none";
  preset?: "paper" | "deep";
  outputStride?: 8 | 16;
  atrousRates?: number[];
  backboneDropout?: number;
  width?: number;
  depth?: number;
  norm?: "batch" | "instance";
  upsampling?: "nearest" | "trilinear";
}

/** Adds the options that shape a network to a command. */
export function withBackboneOptions(command: Command): Command {
  const positive = integer({ min: 1 });
  return command
    .option("--encoder <name>", `unet, deeplabv3plus, fpn: ${ENCODERS.join(", ")} (default: resnet18)`, oneOf(ENCODERS))
    .option("--decoder-channels <list>", "unet: of its five decoder blocks; deeplabv3plus: one number", list(positive))
    .option("--attention <kind>", "unet: scse or none, in the decoder", oneOf(["scse", "none"]))
    .option(
      "--preset <name>",
      "unet: paper, the set-up of Kushibar et al. (2022); deep, its network on a ResNet-101",
      oneOf(["paper", "deep"]),
    )
    .option("--output-stride <n>", "deeplabv3plus: 16 or 8 (default: 16)", (value) => Number(oneOf(["16", "8"])(value)))
    .option("--atrous-rates <list>", "deeplabv3plus: three dilations (default: 12,24,36)", list(positive))
    .option(
      "--backbone-dropout <p>",
      "inside of the network (default: deeplabv3plus 0.5, fpn 0.2, mcd on others 0.2, else 0)",
      number({ min: 0, max: 0.99 }),
    )
    .option("--width <n>", "plain-unet, unet3d: channels of its first level", positive)
    .option("--depth <n>", "plain-unet, unet3d: levels, the first counted", integer({ min: 1, max: 8 }))
    .option("--norm <kind>", "unet3d: batch or instance (default: batch)", oneOf(["batch", "instance"]))
    .option("--upsampling <how>", "unet3d: nearest or trilinear (default: nearest)", oneOf(["nearest", "trilinear"]));
}

/** What was given of them; `Backbone.create` refuses what does not concern the kind. */
export function backboneOptions(flags: BackboneFlags): BackboneOptions {
  const { decoderChannels, attention, backboneDropout, ...rest } = flags;
  const { encoder, preset, outputStride, atrousRates, width, depth, norm, upsampling } = rest;
  const given = { encoder, preset, outputStride, atrousRates, width, depth, norm, upsampling };
  return {
    ...(Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)) as BackboneOptions),
    ...(decoderChannels !== undefined && {
      decoderChannels: decoderChannels.length === 1 ? (decoderChannels[0] as number) : decoderChannels,
    }),
    ...(attention !== undefined && { attention: attention === "none" ? null : attention }),
    ...(backboneDropout !== undefined && { dropout: backboneDropout }),
  };
}
