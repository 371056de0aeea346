// The networks that this package builds itself, with their options: zoo.cpp of the core makes them.
import { type OptionSpecs, option, type Values } from "../options.js";

/** ResNets: encoders of unet, deeplabv3plus and fpn, and networks of their own. */
export const ENCODERS = ["resnet18", "resnet34", "resnet50", "resnet101"] as const;

/** Encoders of unet, deeplabv3plus and fpn. */
export type EncoderName = (typeof ENCODERS)[number];

/** Networks that this package builds itself. */
export type BackboneKind =
  | "unet"
  | "deeplabv3plus"
  | "fpn"
  | "plain-unet"
  | "unet3d"
  | "dynunet"
  | "dynunet2d"
  | EncoderName;

const positive = option.integer({ min: 1 });
const stages = option.array(option.array(positive, { min: 2 }), { min: 2 });
const five = option.array(positive, { length: 5 });

/** The options of all kinds. What has no default here has its own in the network. */
export const BACKBONE_OPTIONS = {
  /** Channels of the image. @default 1 (resnet18/34/50/101: 3) */
  inChannels: option.integer({ min: 1, default: 1 }),
  /** Channels of the network's own output. @default 2 (resnet18/34/50/101: 1000; 0 leaves out the classifier) */
  classes: option.integer({ min: 1, max: 255, default: 2 }),
  /** Seed of the initial weights. @default 0 */
  seed: option.integer({ min: 0 }),
  /** unet, deeplabv3plus, fpn: encoder. @default "resnet18" */
  encoder: option.oneOf(ENCODERS, { otherwise: "resnet18", text: "encoder" }),
  /**
   * Networks with an encoder: a file of weights to start it from (safetensors, or a state dict by `torch.save`; of the
   * classifier, whose last layer is left out, or of a network with such an encoder), or `"imagenet"` for torchvision's,
   * which are fetched once. Where `inChannels` differs, each filter of the first convolution becomes its mean over its
   * input channels, repeated for each new channel and scaled by old/new channels: a grey image in every channel gives the
   * response that it gave before. The recorded configuration does not keep it: a run has its own weights. @default none
   */
  encoderWeights: option.string({
    otherwise: "none",
    text: "weights to start the encoder from: a file, or imagenet (fetched once)",
    arg: "file",
  }),
  /**
   * What stands before the encoder's names in the file of `encoderWeights`, such as `"model.encoder."`; needed only where a
   * file has several encoders that fit. @default found
   */
  encoderPrefix: option.string({
    otherwise: "found",
    text: "what their names begin with in a file of several sets, such as ema.",
    arg: "prefix",
  }),
  /**
   * unet: channels of the five decoder blocks. deeplabv3plus: channels of its decoder, one number.
   * @default [256, 128, 64, 32, 16], 256
   */
  decoderChannels: option.with(option.anyOf(five, positive), {
    otherwise: "256,128,64,32,16; deeplabv3plus: 256",
    text: "channels of the five decoder blocks; deeplabv3plus: one number",
  }),
  /** unet: attention in the decoder; `"scse"` is concurrent spatial and channel squeeze and excitation. @default null */
  attention: option.oneOf(["scse", null], { otherwise: "none", text: "attention in the decoder", arg: "kind" }),
  /**
   * unet: `"paper"` is the set-up of Kushibar et al. (2022): ResNet-18, 1 channel, 1024-512-256-128-64, scSE. `"deep"` is
   * the same on a ResNet-101. Options given beside a preset win.
   */
  preset: option.oneOf(["paper", "deep"], {
    text: "paper, the set-up of Kushibar et al. (2022), training too; deep, its network on a ResNet-101",
  }),
  /** deeplabv3plus: stride of the encoder's last map; its later stages dilate instead of halving. @default 16 */
  outputStride: option.oneOf([8, 16], { otherwise: "16", text: "stride of the encoder's last map", arg: "n" }),
  /** deeplabv3plus: dilations of the pyramid's three separable convolutions. @default [12, 24, 36] */
  atrousRates: option.array(positive, { length: 3, otherwise: "12,24,36", text: "three dilations" }),
  /** fpn: channels of the pyramid. @default 256 */
  pyramidChannels: option.integer({ min: 1, otherwise: "256", text: "channels of the pyramid" }),
  /** fpn: channels of the blocks that lead to the head; a multiple of 32. @default 128 */
  segmentationChannels: option.integer({
    min: 1,
    otherwise: "128",
    text: "channels of the blocks that lead to the head",
  }),
  /**
   * deeplabv3plus: dropout after the pyramid. fpn: of whole channels, before the head. unet: of whole channels, after the
   * encoder's last map and each decoder block but the last. plain-unet, unet3d: of whole channels, after each level but the
   * full-size ones. dynunet, dynunet2d: of whole channels, after each convolution. What Monte Carlo dropout draws.
   * @default 0.5, 0.2, 0, 0, 0
   */
  dropout: option.number({
    min: 0,
    below: 1,
    otherwise: "deeplabv3plus: 0.5; fpn: 0.2; mcd on others: 0.2; else 0",
    text: "dropout inside of the network",
    arg: "p",
  }),
  /** plain-unet, unet3d, dynunet, dynunet2d: channels of the first level; each level below has twice as many. @default 16; dynunet: 32 */
  width: option.integer({ min: 1, otherwise: "16; dynunet: 32", text: "channels of the first level" }),
  /** plain-unet, unet3d, dynunet, dynunet2d: number of levels, the full-size one counted. @default 4; dynunet: 5 */
  depth: option.integer({ min: 1, max: 8, otherwise: "4; dynunet: 5", text: "levels, the first counted" }),
  /** dynunet, dynunet2d: channels that no level exceeds. @default 320 */
  widest: option.integer({ min: 1, otherwise: "320", text: "channels that no level exceeds" }),
  /** dynunet, dynunet2d: convolutions of a level. @default 2 */
  convolutions: option.integer({ min: 1, max: 16, otherwise: "2", text: "convolutions of a level" }),
  /**
   * dynunet, dynunet2d: strides by which each level begins, one number per axis; 1 leaves an axis as long as it is. Those of
   * the first level are 1. @default 2 along each axis
   */
  strides: stages,
  /** dynunet, dynunet2d: kernels of each level, one odd number per axis. @default 3 along each axis */
  kernels: stages,
  /** unet3d: `"instance"` has weights and biases, but no running statistics. @default "batch" */
  norm: option.oneOf(["batch", "instance"], { otherwise: "batch", text: "normalisation", arg: "kind" }),
  /** unet3d: how the decoder enlarges. @default "nearest" */
  upsampling: option.oneOf(["nearest", "trilinear"], { otherwise: "nearest", text: "how the decoder enlarges" }),
};

/** How a backbone is built. What does not concern the chosen kind is refused. */
export interface BackboneOptions extends Values<typeof BACKBONE_OPTIONS> {}

/** A kind of network. */
interface Zooed {
  /** Spatial axes of its image. */
  readonly axes: 2 | 3;
  /** What may be said of it, with its own defaults where they differ. */
  readonly options: OptionSpecs;
}

const all = BACKBONE_OPTIONS;
const segmenter = { inChannels: all.inChannels, classes: all.classes, seed: all.seed };
const { encoder, encoderWeights, encoderPrefix, dropout } = all;
const encoded = { ...segmenter, encoder, encoderWeights, encoderPrefix };
const levels = { ...segmenter, width: all.width, depth: all.depth, dropout };
const { widest, convolutions, strides, kernels } = all;
const dynamic = { ...levels, widest, convolutions, strides, kernels };
const resnet: Zooed = {
  axes: 2,
  options: { inChannels: option.integer({ min: 1, default: 3 }), seed: all.seed, classes: option.integer({ min: 0 }) },
};

/** The kinds of networks, each with its options. */
export const BACKBONES: Readonly<Record<BackboneKind, Zooed>> = {
  unet: {
    axes: 2,
    options: { ...encoded, decoderChannels: five, attention: all.attention, preset: all.preset, dropout },
  },
  deeplabv3plus: {
    axes: 2,
    options: {
      ...encoded,
      decoderChannels: positive,
      outputStride: all.outputStride,
      atrousRates: all.atrousRates,
      dropout: option.with(dropout, { default: 0.5 }),
    },
  },
  fpn: {
    axes: 2,
    options: {
      ...encoded,
      pyramidChannels: all.pyramidChannels,
      segmentationChannels: all.segmentationChannels,
      dropout: option.with(dropout, { default: 0.2 }),
    },
  },
  "plain-unet": { axes: 2, options: levels },
  unet3d: { axes: 3, options: { ...levels, norm: all.norm, upsampling: all.upsampling } },
  dynunet: { axes: 3, options: dynamic },
  dynunet2d: { axes: 2, options: dynamic },
  resnet18: resnet,
  resnet34: resnet,
  resnet50: resnet,
  resnet101: resnet,
};

/** Their names. */
export const BACKBONE_KINDS = Object.keys(BACKBONES) as readonly BackboneKind[];
