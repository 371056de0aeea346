// What a network does not see: volumes larger than its input are cropped.
import { isVolume, type Placement } from "./preprocess.js";

/** Of images larger than the network's input, which sees a part of them alone. Plain JSON. */
export interface Cropped {
  /** How many are. */
  images: number;
  /** Share of their pixels (voxels) that is cropped, mean over them, in (0, 1); null without any. */
  mean: number | null;
  /** The largest of these shares; null without any. */
  most: number | null;
}

/** Share of an image's stored pixels (voxels) that lies outside of the network's input, in [0, 1). */
export function croppedShare(placement: Placement): number {
  // Images are resampled or padded, never cropped.
  if (!isVolume(placement)) return 0;
  const { content, size } = placement;
  return 1 - content.reduce((kept, side, axis) => (kept * Math.min(side, size[axis] as number)) / side, 1);
}

/** Sums up the shares of several images. */
export function croppedOf(shares: Iterable<number>): Cropped {
  const cropped = [...shares].filter((share) => share > 0);
  const { length: images } = cropped;
  if (images === 0) return { images, mean: null, most: null };
  return { images, mean: cropped.reduce((sum, share) => sum + share / images, 0), most: Math.max(...cropped) };
}

/** One sentence for people; undefined where nothing is cropped. @param of how many images there are @param size of the network's input, where it is known */
export function describeCropped(
  { images, mean, most }: Cropped,
  of: number,
  size?: readonly number[] | null,
): string | undefined {
  if (mean === null || most === null) return undefined;
  const percent = (share: number) => `${Math.round(100 * share)} %`;
  const how = images === 1 ? percent(most) : `${percent(mean)} on average, at most ${percent(most)},`;
  const input = size ? ` of ${size.join("×")}` : "";
  return (
    `${images} of ${of} volumes ${images === 1 ? "is" : "are"} larger than the network's input${input}: ${how} of ` +
    `${images === 1 ? "its" : "their"} voxels are cropped and not segmented, but taken for background; scores and ` +
    "predicted Dice are of what was kept (train takes a larger --size)"
  );
}
