import { LayerEnsemblesError } from "../errors.js";
import { Random } from "../random.js";
import type { DatasetOptions } from "./dataset-options.js";

/** What a split is made from: an id and, where known, the group (patient, volume) that must stay together. */
export interface SplitItem {
  id: string;
  group?: string;
}

/**
 * Splits at random into "train", "val" and "test", whole groups at a time; an item without a group is a group of its
 * own. Groups are drawn in seeded order, independent of the order given, and taken while the share is not exceeded; a
 * share above 0 gets at least one group.
 * @returns the split's name for each item
 * @throws ERR_LE_OPTION for shares that leave nothing to train; ERR_LE_DATA where there are too few groups
 */
export function fractionSplit(
  items: readonly SplitItem[],
  fractions: Pick<DatasetOptions, "valFraction" | "testFraction" | "seed">,
): string[] {
  const { valFraction = 0, testFraction = 0, seed = 0 } = fractions;
  if (valFraction + testFraction >= 1) {
    throw new LayerEnsemblesError(
      "ERR_LE_OPTION",
      `Expected a sum below 1 for valFraction and testFraction but received ${valFraction} + ${testFraction}`,
    );
  }
  const groups = new Map<string, number[]>();
  items.forEach(({ id, group }, i) => {
    const key = group === undefined ? `id:${id}` : `group:${group}`;
    groups.set(key, [...(groups.get(key) ?? []), i]);
  });
  const sorted = [...groups.keys()].sort();
  const wanted = 1 + Number(valFraction > 0) + Number(testFraction > 0);
  if (sorted.length < wanted) {
    throw new LayerEnsemblesError(
      "ERR_LE_DATA",
      `Expected at least ${wanted} groups for ${wanted} splits but received ${sorted.length}`,
    );
  }
  const names: string[] = items.map(() => "train");
  let left = new Random(seed).shuffled(sorted);
  for (const [name, fraction] of [
    ["test", testFraction],
    ["val", valFraction],
  ] as const) {
    const target = Math.round(items.length * fraction);
    let taken = 0;
    left = left.filter((key, i) => {
      const members = groups.get(key)!;
      const first = taken === 0 && fraction > 0 && i === 0;
      if (!first && taken + members.length > target) return true;
      taken += members.length;
      for (const member of members) names[member] = name;
      return false;
    });
  }
  if (left.length === 0) {
    throw new LayerEnsemblesError("ERR_LE_DATA", "Expected at least one group for the train split but received none");
  }
  return names;
}
