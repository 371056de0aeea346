// Of runs whose images are predicted by tiles: at which scale, and what nothing promises of them.
import { expect, it } from "vitest";
import { notesAtOwnSize } from "../../lib/inference/inference.js";
import { chosenOtherwise } from "../../lib/runs/certificate.js";
import type { RunNotes } from "../../lib/runs/notes.js";
import type { Run } from "../../lib/runs/run.js";

const notesOf = (size: readonly number[] | null, resize: string) =>
  ({ classNames: ["a", "b"], preprocessing: { size, resize, channels: 1 } }) as unknown as RunNotes;

it("images that kept their scale in training are predicted at their own size", () => {
  for (const notes of [notesOf(null, "stretch"), notesOf([64, 64], "none-with-pad"), notesOf([8, 32, 32], "stretch")])
    expect(notesAtOwnSize(notes)).toEqual({ ...notes, preprocessing: { ...notes.preprocessing, size: null } });
});

it("images that were scaled in training are refused: the network would see things of another size", () => {
  for (const resize of ["stretch", "pad"])
    expect(() => notesAtOwnSize(notesOf([64, 48], resize))).toThrow(
      new RegExp(`kept their scale .* scaled to 64×48 \\(${resize}\\)`),
    );
});

it("a certificate is of whole passes", () => {
  const run = { skip: 2 } as unknown as Run;
  expect(chosenOtherwise(run, {})).toBeUndefined();
  expect(chosenOtherwise(run, { tile: "none", mirror: [] })).toBeUndefined();
  for (const chosen of [{ tile: "auto" }, { tile: [16, 16] }, { mirror: ["width"] }] as const)
    expect(chosenOtherwise(run, chosen)).toBe("passes of whole images");
  expect(chosenOtherwise(run, { skip: 1, tile: "auto" })).toBe("skip and passes of whole images");
});
