// How many values a header claims: checked before anything of that size is made.
import { dataError } from "../data/image.js";

/** @param shown the sizes, for the message @throws ERR_LE_DATA for more values than `most` */
export function checkCount(count: number, shown: string, name: string, most: number): void {
  if (count > most) throw dataError(name, "volume", `at most ${most} values`, `${count} (${shown})`);
}

/**
 * [D, H, W], or [C, D, H, W] of several values of a voxel.
 * @param channels whether several were asked for
 * @throws ERR_LE_DATA for several that were not
 */
export function shapeWith(
  perVoxel: number,
  spatial: readonly number[],
  shown: string,
  name: string,
  channels: boolean,
): number[] {
  if (perVoxel === 1) return [...spatial];
  if (!channels) {
    const received = `${perVoxel} (${shown}); ask for channels to have them all`;
    throw dataError(name, "volume", "one value for each voxel", received);
  }
  return [perVoxel, ...spatial];
}
