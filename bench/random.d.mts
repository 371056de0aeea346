/** A stream of numbers in [0, 1) that a seed decides; see random.mjs. */
export function random(seed: number): () => number;
