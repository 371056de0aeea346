import { LayerEnsemblesError } from "../errors.js";
import type { LayerInfo } from "./backbone.js";

/** Layers that pass on or thin out what others made: no place for a head. */
const PASSIVE = /^(Identity|Upsample|Flatten)$|Pool|^Dropout/;

/**
 * Picks taps spread over the depth of a network: the layers in execution order are cut where the feature maps' size
 * changes, and of each stretch the outermost layer that finishes last is taken. For a U-Net with a ResNet encoder these
 * are the stem's ReLU, the four encoder stages and the decoder blocks. Where more are asked for than there are stretches,
 * as in a classifier, the others come from inside the stretches, outer layers first, evenly.
 *
 * @param layers what `Backbone.probe()` returned: layers with output shapes, in execution order
 * @param options `count`: how many to take, evenly spread over depth; by default one for each stretch. `final`: whether the
 *   network's own output is a head: then the last stretch, where it ends in that output, is left out; by default true.
 *   `image`: spatial size of the probe's image; then layers are left out whose output has not its axes, or whose sides are
 *   not its sides at some stride (tokens N×L×C, maps N×H×W×C)
 * @throws ERR_LE_OPTION where fewer than `count` are found, or the layers have no shapes
 */
export function autoTaps(
  layers: readonly LayerInfo[],
  { count, final = true, image }: { count?: number; final?: boolean; image?: readonly number[] } = {},
): string[] {
  const fits = (layer: LayerInfo) =>
    layer.followsImage !== false && (image ? isMap(layer, image) : (layer.shape?.length ?? 0) >= 4);
  // What is pooled to a single place, as in attention, has nothing to segment by.
  const ran = layers.filter(
    (layer) =>
      layer.tappable &&
      layer.aliasOf === undefined &&
      fits(layer) &&
      layer.shape?.slice(2).some((side) => side > 1) &&
      !PASSIVE.test(layer.type),
  );
  if (ran.length === 0)
    throw new LayerEnsemblesError(
      "ERR_LE_OPTION",
      "Expected layers with feature maps for automatic taps but received none: call probe() first.",
    );
  const stretches: LayerInfo[][] = [];
  let size = "";
  for (const layer of ran) {
    const own = layer.shape?.slice(2).join("x") ?? "";
    if (own !== size) stretches.push([]);
    size = own;
    stretches.at(-1)?.push(layer);
  }
  // A network that ends in a vector, as a classifier does, has no stretch that ends in its output.
  if (final && layers.findLast(({ calls }) => calls !== 0) === ran.at(-1)) stretches.pop();
  const candidates = stretches.map(distinct);
  const most = candidates.reduce((sum, { length }) => sum + length, 0);
  if (count !== undefined && (!Number.isInteger(count) || count < 1 || count > most))
    throw new LayerEnsemblesError(
      "ERR_LE_OPTION",
      `Expected 1 to ${most} for the count of automatic taps but received ${count}.`,
    );
  const shares = share(
    candidates.map(({ length }) => length),
    Math.max(count ?? 0, candidates.length),
  );
  const names = candidates.flatMap((stretch, i) => outermost(stretch, shares[i] as number));
  return count === undefined ? names : spread(names, count);
}

/** Whether a layer's output is a feature map of the image: one for the image, of its axes, each at a stride of its own
 * that is a power of two times that of the others. */
function isMap({ shape }: LayerInfo, image: readonly number[]): boolean {
  if (!shape || shape.length !== image.length + 2 || shape[0] !== 1) return false;
  const sides = shape.slice(2);
  const stride = (image[0] as number) / (sides[0] as number);
  return sides.every((side, i) => {
    const nearest = 2 ** Math.round(Math.log2((image[i] as number) / side / stride));
    // Borders and rounding cost a place or two on either side of a map.
    return Math.abs((image[i] as number) / (stride * nearest) - side) <= Math.max(2, side * 0.1);
  });
}

/** Without those that are the last step of the layer around them: their output is that layer's own. */
function distinct(stretch: readonly LayerInfo[]): LayerInfo[] {
  return stretch.filter(({ name }, i) => !name.startsWith(`${stretch[i + 1]?.name}.`));
}

/** How many to take of each stretch: one each, then one more each in turn while there are any. */
function share(sizes: readonly number[], total: number): number[] {
  const shares = sizes.map(() => 0);
  for (let left = total; left > 0; )
    for (const [i, size] of sizes.entries())
      if (left > 0 && (shares[i] as number) < size) {
        shares[i] = (shares[i] as number) + 1;
        left--;
      }
  return shares;
}

/** The names of `count` layers of a stretch in execution order: the last outermost one, and others spread before it. */
function outermost(stretch: readonly LayerInfo[], count: number): string[] {
  const level = ({ name }: LayerInfo) => name.split(".").length;
  const levels = stretch.map(level).sort((a, b) => a - b);
  const deepest = levels[count - 1] as number;
  const names = stretch.filter((layer) => level(layer) <= deepest).map(({ name }) => name);
  const last = stretch.findLast((layer) => level(layer) === levels[0])?.name;
  if (count === 1) return last === undefined ? [] : [last];
  return spread(names, count);
}

/** `count` of the names at even distances, the last among them. */
function spread(names: readonly string[], count: number): string[] {
  if (count === 1) return names.slice(-1);
  return Array.from({ length: count }, (_, i) => names[Math.round((i * (names.length - 1)) / (count - 1))] as string);
}
