// An image's statistics, by what they are of.

/**
 * An image's statistics by layer, as {@link Prediction.tapStatistics} has them: of C channels C means, then C standard
 * deviations. Beside layers there may be what `BESIDE` has: see docs/shift.md.
 */
export type TapStatistics = Readonly<Record<string, Float32Array>>;

/**
 * Of the network's input, in place of feature maps: max(0, t - u) for each channel's standardised values u and t in -1.5, -1, -0.5,
 * 0, 0.5, 1, 1.5, 2, 3: its histogram.
 */
export const INPUT = "(input)";

/**
 * Of the network's input, too: of each channel's values over their standard deviation the absolute differences of neighbours along each
 * axis, then the absolute second differences: its texture.
 */
export const TEXTURE = "(texture)";

/** Of the image's stored values, before normalisation: as many means and deviations as there are scalings. */
export const STORED = "(stored)";

/** What stands beside the first layer's statistics, in this order. */
export const BESIDE: readonly string[] = [STORED, TEXTURE, INPUT];

/** Of several as if they were of one layer with all their channels. */
export function joined(parts: readonly Float32Array[]): Float32Array {
  if (parts.length === 1) return parts[0] as Float32Array;
  const halves = [0, 1].flatMap((half) =>
    parts.map((part) => part.subarray((half * part.length) / 2, ((half + 1) * part.length) / 2)),
  );
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const half of halves) {
    all.set(half, at);
    at += half.length;
  }
  return all;
}
