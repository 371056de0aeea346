import { LayerEnsemblesError } from "../errors.js";
import type { LayerInfo } from "./backbone.js";

/** Layers that pass on or thin out what others made: no place for a head. */
const PASSIVE = /^(Identity|Upsample|Flatten)$|Pool|^Dropout/;

/**
 * Picks taps spread over the depth of a network: the layers in execution order are cut where the feature maps' size
 * changes, and of each stretch the outermost layer that finishes last is taken. For a U-Net with a ResNet encoder these
 * are the stem's ReLU, the four encoder stages and the decoder blocks.
 *
 * @param layers what `Backbone.probe()` returned: layers with output shapes, in execution order
 * @param options.count how many to keep, evenly spread over depth. Default: all found
 * @param options.final whether the network's own output is a head: then the last stretch, which ends in that output, is
 *   left out. Default: true
 * @throws ERR_LE_OPTION where fewer than `count` are found, or the layers have no shapes
 */
export function autoTaps(
  layers: readonly LayerInfo[],
  { count, final = true }: { count?: number; final?: boolean } = {},
): string[] {
  // What is pooled to a single place, as in attention, has nothing to segment by.
  const ran = layers.filter(
    ({ tappable, shape, type }) =>
      tappable && shape && shape.length >= 4 && shape.slice(2).some((side) => side > 1) && !PASSIVE.test(type),
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
  if (final) stretches.pop();
  const level = (layer: LayerInfo) => layer.name.split(".").length;
  const outermost = stretches.map((stretch) =>
    stretch.reduce((best, layer) => (level(layer) <= level(best) ? layer : best)),
  );
  const names = outermost.map((layer) => layer.name);
  if (count === undefined) return names;
  if (!Number.isInteger(count) || count < 1 || count > names.length)
    throw new LayerEnsemblesError(
      "ERR_LE_OPTION",
      `Expected 1 to ${names.length} for the count of automatic taps but received ${count}.`,
    );
  if (count === 1) return names.slice(-1);
  return Array.from({ length: count }, (_, i) => names[Math.round((i * (names.length - 1)) / (count - 1))] as string);
}
