// Segmentations of the geometry cases' series, each checked by the cases' own checker: pixels, places, references, attributes.
//   LAYER_ENSEMBLES_GEOMETRY=folder LAYER_ENSEMBLES_PYTHON=python npx vitest run test/unit/dicom-segmentation-cases.test.ts
// LAYER_ENSEMBLES_CHECK_SEG names check_seg.py where it is elsewhere than here.
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, describe, expect, it } from "vitest";
import { parseNpy } from "../../lib/data/npy.js";
import { readVolume, writeSegmentation } from "../../lib/volumes/index.js";

const folder = process.env.LAYER_ENSEMBLES_GEOMETRY ?? "";
const here = fileURLToPath(new URL("../../../shared/fixtures/geometry/check_seg.py", import.meta.url));
const checker = process.env.LAYER_ENSEMBLES_CHECK_SEG ?? here;
const python = process.env.LAYER_ENSEMBLES_PYTHON ?? "python3";
const able = existsSync(checker) && spawnSync(python, ["-c", "import pydicom, numpy"]).status === 0;

const root = mkdtempSync(path.join(os.tmpdir(), "le-seg-cases-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

interface Case {
  input: string;
  ok: boolean;
  affine: unknown;
}
const load = (name: string): Case => JSON.parse(readFileSync(path.join(folder, name, "expect.json"), "utf8"));
const cases =
  folder && able
    ? readdirSync(folder).filter(
        (name) => /^dcm-/.test(name) && existsSync(path.join(folder, name, "label.npy")) && load(name).ok,
      )
    : [];

const segments = [1, 2, 3].map((label) => ({ label, name: `structure ${label}` }));
/** The labels of a case, x fastest. */
function labelsOf(name: string) {
  const { data, shape } = parseNpy(readFileSync(path.join(folder, name, "label.npy")), "label.npy");
  const [x, y, z] = shape as [number, number, number];
  const labels = new Uint8Array(data.length);
  for (let i = 0; i < labels.length; i++)
    labels[i] = data[((i % x) * y + (Math.floor(i / x) % y)) * z + Math.floor(i / (x * y))] as number;
  return { data: labels, shape: [z, y, x] };
}
function check(name: string, file: string, ...more: string[]): void {
  const inputs = [path.join(folder, name, "label.npy"), path.join(folder, name, load(name).input)];
  const { status, stdout, stderr } = spawnSync(python, [checker, file, ...inputs, ...more], { encoding: "utf8" });
  expect(status, `${stdout}${stderr}`).toBe(0);
}

describe.skipIf(!folder || !able)("a segmentation of the series of", () => {
  it("many cases", () => expect(cases.length).toBeGreaterThan(10));

  it.each(cases)("%s is right", async (name) => {
    const source = await readVolume(path.join(folder, name, load(name).input));
    const file = path.join(root, `${name}.dcm`);
    await writeSegmentation(file, { labels: labelsOf(name), grid: source.grid }, { source, segments });
    check(name, file);
  });

  it.each(cases.filter((name) => /oblique|enhanced|lossless/.test(name)))(
    "%s is right with all frames, and of probabilities",
    async (name) => {
      const source = await readVolume(path.join(folder, name, load(name).input));
      const labels = labelsOf(name);
      const file = path.join(root, `${name}.dcm`);
      await writeSegmentation(file, { labels }, { source, segments, emptyFrames: true });
      check(name, file, "--all-frames");
      const { length } = labels.data;
      const p = Float32Array.from({ length: 4 * length }, (_, i) =>
        labels.data[i % length] === Math.floor(i / length) ? 0.7 : 0.1,
      );
      const probabilities = { data: p, shape: [4, ...labels.shape] };
      await writeSegmentation(file, { probabilities }, { source, segments });
      check(name, file);
    },
  );
});
