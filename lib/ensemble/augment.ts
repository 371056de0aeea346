import { option, type Values } from "../options.js";

const probability = option.number({ min: 0, max: 1 });
const nonNegative = option.number({ min: 0 });

export const AUGMENT_OPTIONS = {
  /** Probability. @default 0 */
  flipHorizontal: probability,
  /** Probability. @default 0 */
  flipVertical: probability,
  /** Probability, along a volume's first axis. @default 0 */
  flipDepth: probability,
  /** Degrees, ±; of a volume all slices in their plane, as scale and translation. @default 0 */
  rotation: nonNegative,
  /** Zoom factor, [low, high]. @default [1, 1] */
  scale: option.pair(option.number({ min: 0.05, max: 20 })),
  /** Share of the side, ±. @default 0 */
  translation: probability,
  /** Added, ±, in standard deviations of the image. @default 0 */
  brightness: nonNegative,
  /** Factor 1 ± contrast about the image's mean. @default 0 */
  contrast: probability,
  /** Standard deviation of Gaussian noise, in standard deviations of the image. @default 0 */
  noise: nonNegative,
};

/** Random changes of each training sample, drawn anew each epoch; the mask moves along. 0 switches a part off. */
export interface AugmentOptions extends Values<typeof AUGMENT_OPTIONS> {}

/** Name of a strength of augmentation. */
export type AugmentName = "none" | "light" | "default" | "strong";

/** Strengths of augmentation, by name. */
export const AUGMENTATIONS: Readonly<Record<AugmentName, AugmentOptions>> = {
  none: {},
  light: { flipHorizontal: 0.5, rotation: 8, scale: [0.9, 1.1], translation: 0.05, brightness: 0.1, contrast: 0.1 },
  default: {
    flipHorizontal: 0.5,
    rotation: 15,
    scale: [0.8, 1.25],
    translation: 0.08,
    brightness: 0.2,
    contrast: 0.2,
    noise: 0.05,
  },
  strong: {
    flipHorizontal: 0.5,
    flipVertical: 0.5,
    rotation: 30,
    scale: [0.7, 1.4],
    translation: 0.12,
    brightness: 0.4,
    contrast: 0.4,
    noise: 0.1,
  },
};
