// What a gate is asked about a volume: the same by a service and by a certificate.
import { expect, it } from "vitest";
import type { Placement } from "../../lib/data/preprocess.js";
import { gated } from "../../lib/inference/record.js";
import type { RunNotes } from "../../lib/runs/notes.js";
import { acceptability, decide } from "../../lib/scores/gate.js";

const spaced = (z: number): Placement => {
  const affine = [
    [1, 0, 0, 0],
    [0, 1, 0, 0],
    [0, 0, z, 0],
    [0, 0, 0, 1],
  ];
  return { original: [4, 4, 4], stored: { shape: [4, 4, 4], affine } } as unknown as Placement;
};
const notes = {
  preprocessing: { grid: { axes: "RAS", spacing: [2, 1, 1], crop: "none" } },
  data: {
    grids: {
      orientations: ["RAS"],
      spacing: [
        [2, 1, 1],
        [2, 1, 1],
      ],
    },
  },
} as unknown as RunNotes;
const result = { empty: false, softDiceConfidence: { overall: 0.9, perClass: [], heads: [] } } as never;
const gate = { score: "softDiceConfidence", threshold: 0.5 } as const;

it("accepts no volume whose voxels are unlike the training's, however sure the heads are", () => {
  const own = gated(result as object, spaced(2), notes) as never;
  const other = gated(result as object, spaced(6), notes) as never;
  expect(acceptability(own, "softDiceConfidence", gate)).toBe(0.9);
  expect(acceptability(other, "softDiceConfidence", gate)).toBe(Number.NEGATIVE_INFINITY);
  expect(decide(other, gate).reasons.map(({ code }) => code)).toEqual(["unlike-training"]);
});
