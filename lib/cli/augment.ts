import type { AugmentOptions } from "../ensemble/training.js";

/** Strengths of augmentation by name. */
export const AUGMENT = {
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
} as const satisfies Record<
  string,
  { [K in keyof AugmentOptions]: AugmentOptions[K] extends infer T ? Readonly<T> : never }
>;

/** Name of a strength. */
export type AugmentName = keyof typeof AUGMENT;
