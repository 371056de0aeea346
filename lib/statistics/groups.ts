/** Indices of the members of each group, in the order of first appearance. */
export function membersOf(groups: readonly (string | number)[]): number[][] {
  const members = new Map<string | number, number[]>();
  groups.forEach((group, i) => {
    const there = members.get(group);
    if (there) there.push(i);
    else members.set(group, [i]);
  });
  return [...members.values()];
}
